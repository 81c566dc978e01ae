/* The 16 bytes that travel in place of a model update.
 *
 * Owned here, once: the kernel program includes this file, descriptor.py mirrors it and
 * tests/unit/test_descriptor.py compiles it and compares offsets and values.
 */
#ifndef LIFL_DESCRIPTOR_H
#define LIFL_DESCRIPTOR_H

#include <linux/types.h>

#define LIFL_DESCRIPTOR_VERSION 1

enum lifl_kind {
	LIFL_UPDATE = 1,  /* slot holds a client's update or another node's sum, SEALED */
	LIFL_SUM = 2,     /* slot holds a sum, SEALED */
	LIFL_EXPECT = 3,  /* a poke: read the state words yourself */
	LIFL_FLUSH = 4,   /* the round is closed: a poke, too */
	LIFL_RELEASE = 5, /* slot was released by its consumer; travels down the tree */
	LIFL_MODEL = 6,   /* slot holds the finished global model, SEALED */
};

/* A hint, never the truth: the receiver reads the slot's state word before it believes it. */
struct lifl_descriptor {
	__u32 slot;       /* index; bit 31 set: in the sums arena */
	__u32 generation; /* of the slot when this was sent */
	__u32 round;
	__u16 source;     /* endpoint that allocated the slot; RELEASE: endpoint to be woken */
	__u8 kind;        /* enum lifl_kind */
	__u8 version;     /* LIFL_DESCRIPTOR_VERSION */
};

/* An endpoint of a job: a role's (1 ..), or the gateway's lane to that role. */
struct lifl_endpoint {
	__u32 job;
	__u16 endpoint;
	__u16 pad; /* always 0: part of a hash key */
};

#define LIFL_LANE 0x8000 /* endpoint LIFL_LANE | r is the gateway's socket towards role r */

#endif
