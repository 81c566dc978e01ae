/* lifl.functions.kernels._fold: the C kernels as a Python extension.
 *
 * Buffers come in through the buffer protocol and nothing is allocated but the list of terms. What
 * callers should read when they are wrong is said by checks.py before; what is checked here keeps
 * this process's memory safe whatever is passed. The interpreter lock is released for the work.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "_core.h"

/* Asked once: under a hypervisor each cpuid instruction costs microseconds. */
static bool present[ISAS];

static const struct isa *find_isa(const char *name)
{
    for (int i = 0; i < ISAS; i++)
        if (strcmp(isas[i].name, name) == 0 && present[i])
            return &isas[i];
    PyErr_Format(PyExc_ValueError, "isa is '%s'; this CPU or this build does not have it", name);
    return NULL;
}

/* The bytes that sections need of a buffer, or -1 with an exception: offsets and counts come from
 * Python and are not trusted to be in range. */
static int extents(const Py_buffer *table, int64_t *update, int64_t *sum)
{
    *update = *sum = 0;
    if (table->len % (Py_ssize_t)sizeof(struct section) ||
        (table->len && (uintptr_t)table->buf % 8)) { /* an empty one lies anywhere */
        PyErr_SetString(PyExc_ValueError, "sections must be an aligned table of four int64 each");
        return -1;
    }
    const struct section *section = table->buf;
    const int64_t most = INT64_MAX / 16;
    for (size_t i = 0; i < (size_t)table->len / sizeof *section; i++, section++) {
        if (section->code < 0 || section->code >= CODES || section->count < 0 ||
            section->count > most || section->update_offset < 0 || section->update_offset > most ||
            section->sum_offset < 0 || section->sum_offset > most) {
            PyErr_Format(PyExc_ValueError, "section %zu has a number outside its range", i);
            return -1;
        }
        unsigned code = (unsigned)section->code;
        int64_t end = section->update_offset + section->count * code_bytes[code];
        *update = end > *update ? end : *update;
        end = section->sum_offset + section->count * (int64_t)sum_bytes_of(code);
        *sum = end > *sum ? end : *sum;
    }
    return 0;
}

static int long_enough(const char *name, const Py_buffer *buffer, int64_t needed)
{
    if (!buffer->obj || buffer->len >= needed) /* without an owner: absent */
        return 1;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes; the sections need %lld", name, buffer->len,
                 (long long)needed);
    return 0;
}

static int get_optional(PyObject *object, Py_buffer *buffer, int flags)
{
    return object == Py_None ? 0 : PyObject_GetBuffer(object, buffer, flags);
}

static void release(Py_buffer *buffer)
{
    if (buffer->obj)
        PyBuffer_Release(buffer);
}

/* Queued inputs, and the buffers that they lie in. */
struct queue {
    Py_ssize_t k, held;
    Py_buffer *buffers;
    struct term *terms; /* as given, and room for as many once more */
};

static int take_queue(PyObject *inputs, int64_t update, int64_t sum, struct queue *queue)
{
    queue->k = PyTuple_GET_SIZE(inputs);
    queue->buffers = PyMem_Calloc((size_t)queue->k + 1, sizeof *queue->buffers);
    queue->terms = PyMem_Calloc(2 * (size_t)queue->k + 1, sizeof *queue->terms);
    if (!queue->buffers || !queue->terms) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < queue->k; i++) {
        PyObject *data;
        double weight;
        int is_sum;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(inputs, i), "Odp;an input is (data, weight, is_sum)",
                              &data, &weight, &is_sum) ||
            PyObject_GetBuffer(data, &queue->buffers[i], PyBUF_SIMPLE) < 0)
            return -1;
        queue->held++;
        if (!long_enough("an input", &queue->buffers[i], is_sum ? sum : update))
            return -1;
        if (is_sum)
            weight = 1;
        queue->terms[i] =
            (struct term){queue->buffers[i].buf, weight, (float)weight, is_sum != 0};
    }
    return 0;
}

static void drop_queue(struct queue *queue)
{
    for (Py_ssize_t i = 0; i < queue->held; i++)
        release(&queue->buffers[i]);
    PyMem_Free(queue->buffers);
    PyMem_Free(queue->terms);
}

PyDoc_STRVAR(fold_doc, "fold(isa, out, acc, inputs, sections, /)\n--\n\n"
                       "out <- (acc or 0) + sum of weight * data over inputs.");

static PyObject *fold(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *out_object, *acc_object, *inputs;
    Py_buffer table = {0}, out = {0}, acc = {0};
    struct queue queue = {0};
    PyObject *result = NULL;
    int64_t update, sum;

    if (!PyArg_ParseTuple(args, "sOOO!y*", &name, &out_object, &acc_object, &PyTuple_Type, &inputs,
                          &table))
        return NULL;
    const struct isa *isa = find_isa(name);
    if (!isa || extents(&table, &update, &sum) < 0)
        goto done;
    if (PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0 ||
        get_optional(acc_object, &acc, PyBUF_SIMPLE) < 0 || !long_enough("out", &out, sum) ||
        !long_enough("acc", &acc, sum) || take_queue(inputs, update, sum, &queue) < 0)
        goto done;
    Py_BEGIN_ALLOW_THREADS
    core_fold(isa, out.buf, acc.buf, queue.terms, queue.terms + queue.k, (size_t)queue.k, table.buf,
              (size_t)table.len / sizeof(struct section));
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);

done:
    drop_queue(&queue);
    release(&acc);
    release(&out);
    PyBuffer_Release(&table);
    return result;
}

PyDoc_STRVAR(finish_doc,
             "finish(isa, out, total, inputs, total_weight, base, velocity_in, velocity_out,\n"
             "       learning_rate, momentum, with_momentum, sections, /)\n--\n\n"
             "out <- the next model, from (total or 0) + the sum of weight * data over inputs.");

static PyObject *finish(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    PyObject *out_object, *total_object, *inputs, *base_object, *in_object, *velocity_object;
    Py_buffer table = {0}, out = {0}, total = {0}, base = {0}, in = {0}, velocity = {0};
    struct queue queue = {0};
    struct finish how = {0};
    int with_momentum;
    PyObject *result = NULL;
    int64_t update, sum;

    if (!PyArg_ParseTuple(args, "sOOO!dOOOddpy*", &name, &out_object, &total_object, &PyTuple_Type,
                          &inputs, &how.total_weight, &base_object, &in_object, &velocity_object,
                          &how.learning_rate, &how.momentum, &with_momentum, &table))
        return NULL;
    how.with_momentum = with_momentum != 0;
    const struct isa *isa = find_isa(name);
    if (!isa || extents(&table, &update, &sum) < 0)
        goto done;
    if (PyObject_GetBuffer(out_object, &out, PyBUF_WRITABLE) < 0 ||
        get_optional(total_object, &total, PyBUF_SIMPLE) < 0 ||
        get_optional(base_object, &base, PyBUF_SIMPLE) < 0 ||
        get_optional(in_object, &in, PyBUF_SIMPLE) < 0 ||
        get_optional(velocity_object, &velocity, PyBUF_WRITABLE) < 0)
        goto done;
    if (!long_enough("out", &out, update) || !long_enough("total", &total, sum) ||
        !long_enough("base", &base, update) || !long_enough("velocity_in", &in, sum) ||
        !long_enough("velocity_out", &velocity, sum) || take_queue(inputs, update, sum, &queue) < 0)
        goto done;
    if (!total.obj && !queue.k) {
        PyErr_SetString(PyExc_ValueError, "nothing to finish: neither a total nor an input");
        goto done;
    }
    if (how.with_momentum && (!base.obj || !velocity.obj)) {
        PyErr_SetString(PyExc_ValueError, "fedavgm needs base and velocity_out");
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    core_finish(isa, &how, out.buf, total.buf, queue.terms, queue.terms + queue.k, (size_t)queue.k,
                base.buf, in.buf, velocity.buf, table.buf,
                (size_t)table.len / sizeof(struct section));
    Py_END_ALLOW_THREADS
    result = Py_NewRef(Py_None);

done:
    drop_queue(&queue);
    release(&velocity);
    release(&in);
    release(&base);
    release(&total);
    release(&out);
    PyBuffer_Release(&table);
    return result;
}

PyDoc_STRVAR(nonfinite_doc, "nonfinite(isa, data, start, sections, /)\n--\n\n"
                            "Offset of the first float that is not finite, of those of an update\n"
                            "that lie whole in data, its bytes from start on; or -1.");

static PyObject *nonfinite(PyObject *module, PyObject *args)
{
    (void)module;
    const char *name;
    Py_buffer data = {0}, table = {0};
    PyObject *result = NULL;
    long long start;
    int64_t update, sum, found;

    if (!PyArg_ParseTuple(args, "sy*Ly*", &name, &data, &start, &table))
        return NULL;
    const struct isa *isa = find_isa(name);
    if (!isa || extents(&table, &update, &sum) < 0)
        goto done;
    if (start < 0 || start > INT64_MAX / 16) {
        PyErr_Format(PyExc_ValueError, "start is %lld; it must be an offset in bytes", start);
        goto done;
    }
    Py_BEGIN_ALLOW_THREADS
    found = core_finite(isa, data.buf, start, data.len, table.buf,
                        (size_t)table.len / sizeof(struct section));
    Py_END_ALLOW_THREADS
    result = PyLong_FromLongLong(found);

done:
    PyBuffer_Release(&data);
    PyBuffer_Release(&table);
    return result;
}

PyDoc_STRVAR(supported_doc, "isas()\n--\n\nInstruction sets that this CPU and this build have, "
                            "best first.");

static PyObject *supported(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    PyObject *names = PyList_New(0);
    for (int i = 0; names && i < ISAS; i++) {
        if (!present[i])
            continue;
        PyObject *name = PyUnicode_FromString(isas[i].name);
        if (!name || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyMethodDef methods[] = {
    {"fold", fold, METH_VARARGS, fold_doc},
    {"finish", finish, METH_VARARGS, finish_doc},
    {"nonfinite", nonfinite, METH_VARARGS, nonfinite_doc},
    {"isas", supported, METH_NOARGS, supported_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_fold", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__fold(void)
{
    for (int i = 0; i < ISAS; i++)
        present[i] = isas[i].supported();
    return PyModule_Create(&definition);
}
