/* Shared words with acquire and release, and the scan over them.
 *
 * Owns the only loads and stores by which processes synchronise (docs/crash-protocol.md).
 * Called by shm/slots.py. Words are little-endian and naturally aligned.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

static void *word(Py_buffer *buffer, Py_ssize_t offset, Py_ssize_t width)
{
	if (offset < 0 || offset + width > buffer->len || offset % width) {
		PyErr_Format(PyExc_ValueError, "word of %zd bytes at offset %zd: outside %zd bytes or unaligned",
			     width, offset, buffer->len);
		return NULL;
	}
	return (char *)buffer->buf + offset;
}

#define LOAD(NAME, TYPE, FROM)                                                        \
	static PyObject *NAME(PyObject *self, PyObject *args)                         \
	{                                                                             \
		Py_buffer buffer;                                                     \
		Py_ssize_t offset;                                                    \
		PyObject *value = NULL;                                               \
		(void)self;                                                           \
		if (!PyArg_ParseTuple(args, "y*n", &buffer, &offset))                 \
			return NULL;                                                  \
		TYPE *p = word(&buffer, offset, sizeof(TYPE));                        \
		if (p)                                                                \
			value = FROM(__atomic_load_n(p, __ATOMIC_ACQUIRE));           \
		PyBuffer_Release(&buffer);                                            \
		return value;                                                         \
	}

#define STORE(NAME, TYPE)                                                             \
	static PyObject *NAME(PyObject *self, PyObject *args)                         \
	{                                                                             \
		Py_buffer buffer;                                                     \
		Py_ssize_t offset;                                                    \
		unsigned long long value;                                             \
		(void)self;                                                           \
		if (!PyArg_ParseTuple(args, "w*nK", &buffer, &offset, &value))        \
			return NULL;                                                  \
		TYPE *p = word(&buffer, offset, sizeof(TYPE));                        \
		if (p) {                                                              \
			__atomic_store_n(p, (TYPE)value, __ATOMIC_RELEASE);           \
			__atomic_thread_fence(__ATOMIC_RELEASE);                      \
		}                                                                     \
		PyBuffer_Release(&buffer);                                            \
		if (!p)                                                               \
			return NULL;                                                  \
		Py_RETURN_NONE;                                                       \
	}

LOAD(load_u64, uint64_t, PyLong_FromUnsignedLongLong)
LOAD(load_u32, uint32_t, PyLong_FromUnsignedLong)
STORE(store_u64, uint64_t)
STORE(store_u32, uint32_t)

/* One word a slot, `stride` bytes apart: the states of slots, or what their consumers released. */
struct column {
	Py_buffer buffer;
	Py_ssize_t at, stride;
};

/* Whether the words of so many slots lie in it; else an error is set. */
static int has(struct column *column, Py_ssize_t count, Py_ssize_t width)
{
	if (count > 0 && (column->stride <= 0 || (count - 1) > column->buffer.len / column->stride)) {
		PyErr_Format(PyExc_ValueError, "words of %zd slots, %zd bytes apart: outside %zd bytes", count,
			     column->stride, column->buffer.len);
		return 0;
	}
	return count <= 0 || (word(&column->buffer, column->at, width) &&
			      word(&column->buffer, column->at + (count - 1) * column->stride, width));
}

static uint64_t state_of(const struct column *states, Py_ssize_t slot)
{
	return __atomic_load_n((uint64_t *)((char *)states->buffer.buf + states->at + slot * states->stride),
			       __ATOMIC_ACQUIRE);
}

/* Sealed, and not yet released by the consumer that its seal names. */
static int is_unreleased(uint64_t state, const struct column *released, Py_ssize_t slot, unsigned int sealed)
{
	uint32_t gone = __atomic_load_n(
		(uint32_t *)((char *)released->buffer.buf + released->at + slot * released->stride),
		__ATOMIC_ACQUIRE);
	return ((state >> 48) & 0xff) == sealed && gone != (uint32_t)state;
}

/* scan(states, offset, stride, count, released, offset, stride, sealed, writing, consumer):
 * ([indices sealed for this consumer and not yet released], how many slots nobody has, how many are
 * being written for this consumer), each slot looked at once. */
static PyObject *scan(PyObject *self, PyObject *args)
{
	struct column states, released;
	Py_ssize_t count, vacant = 0, arriving = 0;
	unsigned int sealed, writing, consumer;
	PyObject *found = NULL;
	(void)self;
	if (!PyArg_ParseTuple(args, "y*nnny*nnIII", &states.buffer, &states.at, &states.stride, &count,
			      &released.buffer, &released.at, &released.stride, &sealed, &writing, &consumer))
		return NULL;
	if (has(&states, count, 8) && has(&released, count, 4))
		found = PyList_New(0);
	for (Py_ssize_t i = 0; found && i < count; i++) {
		uint64_t state = state_of(&states, i);
		unsigned int phase = (state >> 48) & 0xff, reader = (state >> 32) & 0xffff;
		if (phase == writing) {
			arriving += reader == consumer;
		} else if (!is_unreleased(state, &released, i, sealed)) {
			vacant++;
		} else if (reader == consumer) {
			PyObject *index = PyLong_FromSsize_t(i);
			if (!index || PyList_Append(found, index))
				Py_CLEAR(found);
			Py_XDECREF(index);
		}
	}
	PyBuffer_Release(&states.buffer);
	PyBuffer_Release(&released.buffer);
	return found ? Py_BuildValue("Nnn", found, vacant, arriving) : NULL;
}

/* writable(states, offset, stride, first, count, released, offset, stride, sealed): the first slot
 * from `first` on, of `count`, that holds nothing which its consumer still needs, -1 if each does.
 * One that is being written is as good as another: its writer knows its own. */
static PyObject *writable(PyObject *self, PyObject *args)
{
	struct column states, released;
	Py_ssize_t first, count, found = -1;
	unsigned int sealed;
	int is_right;
	(void)self;
	if (!PyArg_ParseTuple(args, "y*nnnny*nnI", &states.buffer, &states.at, &states.stride, &first, &count,
			      &released.buffer, &released.at, &released.stride, &sealed))
		return NULL;
	is_right = has(&states, count, 8) && has(&released, count, 4);
	if (is_right && first < 0) {
		is_right = 0;
		PyErr_Format(PyExc_ValueError, "the first slot is %zd: it must be at least 0", first);
	}
	for (Py_ssize_t i = first; is_right && found < 0 && i < count; i++)
		if (!is_unreleased(state_of(&states, i), &released, i, sealed))
			found = i;
	PyBuffer_Release(&states.buffer);
	PyBuffer_Release(&released.buffer);
	return is_right ? PyLong_FromSsize_t(found) : NULL;
}

/* load_set(buffer, offset, words): a bitmap as bytes, each word with acquire. */
static PyObject *load_set(PyObject *self, PyObject *args)
{
	Py_buffer buffer;
	Py_ssize_t at, count;
	PyObject *found = NULL;
	(void)self;
	if (!PyArg_ParseTuple(args, "y*nn", &buffer, &at, &count))
		return NULL;
	if (count > 0 && (!word(&buffer, at, 8) || !word(&buffer, at + (count - 1) * 8, 8)))
		goto out;
	found = PyBytes_FromStringAndSize(NULL, count > 0 ? count * 8 : 0);
	for (Py_ssize_t i = 0; found && i < count; i++) {
		uint64_t value = __atomic_load_n((uint64_t *)((char *)buffer.buf + at + i * 8),
						 __ATOMIC_ACQUIRE);
		memcpy(PyBytes_AS_STRING(found) + i * 8, &value, 8);
	}
out:
	PyBuffer_Release(&buffer);
	return found;
}

/* store_set(buffer, offset, bytes): a bitmap of whole words, each with release. */
static PyObject *store_set(PyObject *self, PyObject *args)
{
	Py_buffer buffer, set;
	Py_ssize_t at;
	PyObject *done = NULL;
	(void)self;
	if (!PyArg_ParseTuple(args, "w*ny*", &buffer, &at, &set))
		return NULL;
	Py_ssize_t count = set.len / 8;
	if (set.len % 8) {
		PyErr_Format(PyExc_ValueError, "a set of %zd bytes: whole words of 8 are stored", set.len);
		goto out;
	}
	if (count > 0 && (!word(&buffer, at, 8) || !word(&buffer, at + (count - 1) * 8, 8)))
		goto out;
	for (Py_ssize_t i = 0; i < count; i++) {
		uint64_t value;
		memcpy(&value, (char *)set.buf + i * 8, 8);
		__atomic_store_n((uint64_t *)((char *)buffer.buf + at + i * 8), value,
				 __ATOMIC_RELEASE);
	}
	__atomic_thread_fence(__ATOMIC_RELEASE);
	done = Py_NewRef(Py_None);
out:
	PyBuffer_Release(&buffer);
	PyBuffer_Release(&set);
	return done;
}

static PyMethodDef methods[] = {
	{"load_u64", load_u64, METH_VARARGS, "load_u64(buffer, offset) -> int, acquire"},
	{"load_u32", load_u32, METH_VARARGS, "load_u32(buffer, offset) -> int, acquire"},
	{"store_u64", store_u64, METH_VARARGS, "store_u64(buffer, offset, value), release"},
	{"store_u32", store_u32, METH_VARARGS, "store_u32(buffer, offset, value), release"},
	{"scan", scan, METH_VARARGS, "what is sealed for a consumer, vacant, being written for it"},
	{"writable", writable, METH_VARARGS, "the first slot that nobody needs any more, -1: none"},
	{"load_set", load_set, METH_VARARGS, "load_set(buffer, offset, words) -> bytes, acquire"},
	{"store_set", store_set, METH_VARARGS, "store_set(buffer, offset, bytes), release"},
	{NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_words", NULL, -1, methods,
				    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__words(void)
{
	return PyModule_Create(&module);
}
