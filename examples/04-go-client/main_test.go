package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"testing"
)

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Every line of the protocol's test vectors.
func TestVectors(t *testing.T) {
	text, err := os.ReadFile("../../docs/bulk-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	type chunk struct{ Payload, Wire string }
	type mode struct {
		TicketID                        string `json:"ticket_id"`
		Secret, About, Greeting, Answer string
		Up, Down                        []chunk
	}
	var vectors struct {
		Gateway, Client, Job string
		Plain, Sealed        mode
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]mode{"plain": vectors.Plain, "sealed": vectors.Sealed} {
		t.Run(name, func(t *testing.T) {
			x := newTicket(fields{
				"id": unhex(t, m.TicketID), "secret": unhex(t, m.Secret), "mode": name, "port": int64(1),
			}, vectors.Gateway, vectors.Client, vectors.Job)
			check := func(what string, got []byte, want string) {
				t.Helper()
				if !bytes.Equal(got, unhex(t, want)) {
					t.Errorf("%s is %x, not %s", what, got, want)
				}
			}
			check("about", x.about, m.About)
			check("the greeting", append(x.opening(), x.key("hello")...), m.Greeting)
			check("the answer", x.key("welcome"), m.Answer)
			sealing, err := x.channel(up)
			if err != nil {
				t.Fatal(err)
			}
			at := uint64(0)
			for _, chunk := range m.Up {
				payload := unhex(t, chunk.Payload)
				// The vectors number their short chunks by elevens.
				h := head{up, uint32(len(payload)), 3, 7, at}
				check("a chunk up", sealing.seal(h, payload), chunk.Wire)
				at += 11
			}
			opening, err := x.channel(down)
			if err != nil {
				t.Fatal(err)
			}
			at = 0
			for _, chunk := range m.Down {
				wire := unhex(t, chunk.Wire)
				payload, err := opening.open(wire[:headBytes], wire[headBytes:])
				if err != nil {
					t.Fatal(err)
				}
				check("a payload down", payload, chunk.Payload)
				if want := (head{down, uint32(len(payload)), 3, 7, at}); unpackHead(wire) != want {
					t.Errorf("a head down is %+v, not %+v", unpackHead(wire), want)
				}
				at += 11
			}
			if name == "sealed" { // the same chunk a second time
				wire := unhex(t, m.Down[1].Wire)
				if _, err := opening.open(wire[:headBytes], wire[headBytes:]); err == nil {
					t.Error("a chunk was taken twice")
				}
			}
		})
	}
}

// The example of the protocol's text, and the alignment of runs.
func TestLayout(t *testing.T) {
	list := []any{
		[]any{"w", int64(1), []any{int64(3)}}, []any{"n", int64(7), []any{}},
		[]any{"b", int64(1), []any{int64(2)}},
	}
	layout, length, err := newLayout(list)
	want := []tensor{{"w", 1, 0, 12}, {"n", 7, 64, 8}, {"b", 1, 12, 8}}
	if err != nil || length != 72 || !reflect.DeepEqual(layout, want) {
		t.Errorf("layout %v, length %d, %v", layout, length, err)
	}
	if _, length, err = newLayout([]any{[]any{"e", int64(1), []any{int64(0)}}}); length != 1 || err != nil {
		t.Errorf("a layout without elements has length %d, %v", length, err)
	}
	if _, _, err = newLayout([]any{[]any{"e", int64(13), []any{}}}); err == nil {
		t.Error("code 13 was taken")
	}
}

func TestMsgpack(t *testing.T) {
	said := fields{
		"t": "put", "n": 70000, "small": 7, "weight": 1.5, "yes": true, "no": false, "none": nil,
		"digest": []byte{1, 2}, "map": fields{"ü": 2.0},
	}
	heard, rest, err := unpack(pack(nil, said))
	want := fields{
		"t": "put", "n": int64(70000), "small": int64(7), "weight": 1.5, "yes": true, "no": false,
		"none": nil, "digest": []byte{1, 2}, "map": fields{"ü": 2.0},
	}
	if err != nil || len(rest) != 0 || !reflect.DeepEqual(heard, want) {
		t.Errorf("%v, %v, %v", heard, rest, err)
	}
	for text, want := range map[string]any{
		"7f": int64(127), "ff": int64(-1), "ccff": int64(255), "cd0100": int64(256), "d080": int64(-128),
		"d1ff00": int64(-256), "cfffffffffffffffff": uint64(math.MaxUint64),
		"ca3fc00000": 1.5, "a161": "a", "d90161": "a", "da000161": "a", "db0000000161": "a",
		"c40101": []byte{1}, "c5000101": []byte{1}, "93010203": []any{int64(1), int64(2), int64(3)},
		"dc000101": []any{int64(1)}, "81a16101": fields{"a": int64(1)}, "de0001a16101": fields{"a": int64(1)},
		"d40102": nil, "c7020100ff": nil, "c0": nil,
	} {
		got, rest, err := unpack(unhex(t, text))
		if err != nil || len(rest) != 0 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %#v, %x, %v", text, got, rest, err)
		}
	}
	for _, text := range []string{"", "c1", "a2", "a261", "cd01", "92", "9201", "81", "81a161", "c6ffffffff", "dfffffffff"} {
		if got, _, err := unpack(unhex(t, text)); err == nil {
			t.Errorf("%q was taken for %v", text, got)
		}
	}
}

// Every float16 there is, and the ties between them.
func TestHalf(t *testing.T) {
	for bits := 0; bits < 1<<16; bits++ {
		value := fromHalf(uint16(bits))
		if math.IsNaN(value) {
			if !math.IsNaN(fromHalf(toHalf(value))) {
				t.Errorf("%04x does not stay NaN", bits)
			}
			continue
		}
		if got := toHalf(value); got != uint16(bits) {
			t.Errorf("%04x is %v and comes back as %04x", bits, value, got)
		}
		if next := fromHalf(uint16(bits + 1)); bits&0x7fff < 0x7bff {
			if got, even := toHalf((value+next)/2), uint16(bits+bits&1); got != even {
				t.Errorf("between %v and %v is %04x, not %04x", value, next, got, even)
			}
		}
	}
}

func TestAdd(t *testing.T) {
	le := binary.LittleEndian
	f64 := le.AppendUint64(nil, math.Float64bits(-1.5))
	f32 := le.AppendUint32(nil, math.Float32bits(0.25))
	for code, c := range map[int]struct{ before, after []byte }{
		0:  {f64, le.AppendUint64(nil, math.Float64bits(1.5))},
		1:  {f32, le.AppendUint32(nil, math.Float32bits(3.25))},
		2:  {[]byte{0, 0x3c}, []byte{0, 0x44}},
		3:  {[]byte{0x80, 0x3f}, []byte{0x80, 0x40}},
		4:  {[]byte{0xfe, 1}, []byte{1, 4}},
		5:  {[]byte{0xfe, 0xff}, []byte{1, 0}},
		6:  {[]byte{1, 0, 0, 0}, []byte{4, 0, 0, 0}},
		7:  {bytes.Repeat([]byte{0xff}, 8), []byte{2, 0, 0, 0, 0, 0, 0, 0}},
		12: {[]byte{1, 0}, []byte{1, 0}},
	} {
		if add(code, c.before, 3); !bytes.Equal(c.before, c.after) {
			t.Errorf("code %d: %x, not %x", code, c.before, c.after)
		}
	}
}

// What was answered before the run was started again is sent again only where the model is the same.
func TestStartedAgain(t *testing.T) {
	for _, c := range []struct {
		start, number, made int64
		kept                bool
	}{{1, 8, 1, true}, {2, 8, 1, true}, {2, 8, 2, false}, {2, 6, 1, false}, {2, 9, 2, false}} {
		client := &client{began: 1, start: c.start, round: 8, made: 1, length: 9, update: make([]byte, 9)}
		client.begin(c.number, c.made, true, nil)
		if kept := client.update != nil; kept != c.kept || client.round != c.number || client.made != c.made {
			t.Errorf("%v: round %d made in %d, kept: %v", c, client.round, client.made, kept)
		}
	}
}
