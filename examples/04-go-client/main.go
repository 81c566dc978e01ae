// A client of LIFL in Go, written from docs/protocol.md alone.
//
// It takes part in every round of a job until the job is over: fetches the model, computes an
// update (train, below: the place for a real training loop), sends it, and goes on after a
// redirect, a refusal, a lost connection or a restarted gateway.
//
//	LIFL_CLIENT=runs/latest/clients/client-0.json ./go-client
//
// One goroutine, run, owns all ZeroMQ sockets and every decision. A bulk connection has two more,
// one that reads and one that writes; they tell run what happened through a Go channel, and wake
// its poller through a socket inside the process.
package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	zmq "github.com/pebbe/zmq4"
)

const (
	chunkBytes = 1 << 20   // of payload in a chunk, on either lane
	smallBytes = 64 << 10  // updates up to this size travel with their `put`
	getBytes   = 256 << 10 // most of one `get` on the simple lane
	getsAtOnce = 3         // on the simple lane
	silence    = 2 * time.Second
	underWay   = 15 * time.Second       // a chunk may be for so long, on the simple lane
	pause      = 100 * time.Millisecond // before a request that was refused is said again
	giveUp     = 60 * time.Second       // without a connection
)

// ---- training -------------------------------------------------------------------------------

// train turns the model into this client's update, in place, and says its weight. Here it is a
// sum that a test can check: 1 + index on every element that is a number.
func train(model []byte, layout []tensor, index int) (weight float64) {
	for _, t := range layout {
		add(t.code, model[t.at:t.at+t.bytes], int64(1+index))
	}
	return float64(1 + index%3)
}

// add adds a number to every element of a tensor; bool stays as it is.
func add(code int, b []byte, number int64) {
	le := binary.LittleEndian
	switch code {
	case 0:
		for ; len(b) > 0; b = b[8:] {
			le.PutUint64(b, math.Float64bits(math.Float64frombits(le.Uint64(b))+float64(number)))
		}
	case 1:
		for ; len(b) > 0; b = b[4:] {
			le.PutUint32(b, math.Float32bits(math.Float32frombits(le.Uint32(b))+float32(number)))
		}
	case 2:
		for ; len(b) > 0; b = b[2:] {
			le.PutUint16(b, toHalf(fromHalf(le.Uint16(b))+float64(number)))
		}
	case 3:
		for ; len(b) > 0; b = b[2:] {
			value := math.Float32frombits(uint32(le.Uint16(b)) << 16)
			le.PutUint16(b, toBrain(value+float32(number)))
		}
	case 4, 8:
		for i := range b {
			b[i] += byte(number)
		}
	case 5, 9:
		for ; len(b) > 0; b = b[2:] {
			le.PutUint16(b, le.Uint16(b)+uint16(number))
		}
	case 6, 10:
		for ; len(b) > 0; b = b[4:] {
			le.PutUint32(b, le.Uint32(b)+uint32(number))
		}
	case 7, 11:
		for ; len(b) > 0; b = b[8:] {
			le.PutUint64(b, le.Uint64(b)+uint64(number))
		}
	}
}

func fromHalf(h uint16) float64 {
	exponent, fraction, value := int(h>>10&31), float64(h&1023), 0.0
	switch {
	case exponent == 31 && fraction != 0:
		return math.NaN()
	case exponent == 31:
		value = math.Inf(1)
	case exponent == 0:
		value = math.Ldexp(fraction, -24)
	default:
		value = math.Ldexp(1024+fraction, exponent-25)
	}
	if h&0x8000 != 0 {
		return -value
	}
	return value
}

// toHalf rounds to the nearest float16, a tie to the even one.
func toHalf(value float64) uint16 {
	sign := uint16(math.Float64bits(value)>>48) & 0x8000
	value = math.Abs(value)
	switch {
	case math.IsNaN(value):
		return sign | 0x7e00
	case value >= 65520: // half a unit above the largest
		return sign | 0x7c00
	}
	_, exponent := math.Frexp(value)
	if exponent--; value < 0x1p-14 {
		exponent = -14 // zero and the subnormal numbers share one exponent
	}
	units := int(math.RoundToEven(math.Ldexp(value, 10-exponent)))
	return sign | uint16(units+(exponent+14)<<10) // a sum, so that rounding up carries over
}

// toBrain rounds to the nearest bfloat16, a tie to the even one.
func toBrain(value float32) uint16 {
	bits := math.Float32bits(value)
	if value != value {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// ---- layout ---------------------------------------------------------------------------------

var elementBytes = [...]int{8, 4, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8, 1} // by code

// tensor is where a tensor lies in updates and models.
type tensor struct {
	name  string
	code  int
	at    int
	bytes int
}

// newLayout places the tensors of a `welcome`, and returns the update length too.
func newLayout(list []any) (layout []tensor, length int, err error) {
	for _, item := range list {
		fields, _ := item.([]any)
		if len(fields) != 3 {
			return nil, 0, fmt.Errorf("a tensor of the layout is %v, not [name, code, shape]", item)
		}
		name, _ := fields[0].(string)
		code, _ := fields[1].(int64)
		shape, _ := fields[2].([]any)
		if code < 0 || int(code) >= len(elementBytes) {
			return nil, 0, fmt.Errorf("tensor %q has code %d, which this client does not know", name, code)
		}
		count := 1
		for _, n := range shape {
			side, _ := n.(int64)
			count *= int(side)
		}
		layout = append(layout, tensor{name: name, code: int(code), bytes: count * elementBytes[code]})
	}
	for code := range elementBytes {
		first := true
		for i := range layout {
			if t := &layout[i]; t.code == code {
				if first {
					length = (length + 63) / 64 * 64
					first = false
				}
				t.at = length
				length += t.bytes
			}
		}
	}
	if length == 0 {
		length = 1
	}
	return layout, length, nil
}

// ---- msgpack --------------------------------------------------------------------------------

type fields = map[string]any

// pack appends a value in msgpack: nil, bool, int, int64, float64, string, []byte, or a map of those.
func pack(to []byte, value any) []byte {
	be := binary.BigEndian
	switch v := value.(type) {
	case nil:
		return append(to, 0xc0)
	case bool:
		if v {
			return append(to, 0xc3)
		}
		return append(to, 0xc2)
	case int64:
		return pack(to, int(v))
	case int:
		if v >= 0 && v < 128 {
			return append(to, byte(v))
		}
		return be.AppendUint64(append(to, 0xd3), uint64(v))
	case float64:
		return be.AppendUint64(append(to, 0xcb), math.Float64bits(v))
	case string:
		return append(be.AppendUint32(append(to, 0xdb), uint32(len(v))), v...)
	case []byte:
		return append(be.AppendUint32(append(to, 0xc6), uint32(len(v))), v...)
	case fields:
		to = be.AppendUint32(append(to, 0xdf), uint32(len(v)))
		for key, item := range v {
			to = pack(pack(to, key), item)
		}
		return to
	}
	panic(fmt.Sprintf("pack: %T", value))
}

var errPacked = errors.New("not msgpack, or not all of it")

// unpack reads one value: nil, bool, int64, uint64 above that, float64, string, []byte, []any or
// map[string]any; ext types become nil. It returns what follows.
func unpack(b []byte) (value any, rest []byte, err error) {
	if len(b) == 0 {
		return nil, nil, errPacked
	}
	first, b := b[0], b[1:]
	// number takes a big-endian integer of some bytes.
	number := func(size int) (n uint64) {
		if len(b) < size {
			err = errPacked
			b = nil
			return 0
		}
		for _, octet := range b[:size] {
			n = n<<8 | uint64(octet)
		}
		b = b[size:]
		return n
	}
	take := func(size uint64) []byte {
		if uint64(len(b)) < size {
			err = errPacked
			return nil
		}
		taken := b[:size]
		b = b[size:]
		return taken
	}
	list := func(size uint64) []any {
		items := []any{}
		for ; size > 0 && err == nil; size-- {
			var item any
			item, b, err = unpack(b)
			items = append(items, item)
		}
		return items
	}
	table := func(size uint64) fields {
		found := fields{}
		for ; size > 0 && err == nil; size-- {
			var key, item any
			if key, b, err = unpack(b); err == nil {
				item, b, err = unpack(b)
			}
			if name, ok := key.(string); ok {
				found[name] = item
			}
		}
		return found
	}
	switch {
	case first < 0x80:
		value = int64(first)
	case first < 0x90:
		value = table(uint64(first & 15))
	case first < 0xa0:
		value = list(uint64(first & 15))
	case first < 0xc0:
		value = string(take(uint64(first & 31)))
	case first == 0xc0:
	case first == 0xc2, first == 0xc3:
		value = first == 0xc3
	case first >= 0xc4 && first <= 0xc6:
		value = take(number(1 << (first - 0xc4)))
	case first >= 0xc7 && first <= 0xc9:
		take(number(1<<(first-0xc7)) + 1)
	case first == 0xca:
		value = float64(math.Float32frombits(uint32(number(4))))
	case first == 0xcb:
		value = math.Float64frombits(number(8))
	case first >= 0xcc && first <= 0xcf:
		n := number(1 << (first - 0xcc))
		value = n
		if n <= math.MaxInt64 {
			value = int64(n)
		}
	case first >= 0xd0 && first <= 0xd3:
		size := 1 << (first - 0xd0)
		shift := 64 - 8*size
		value = int64(number(size)<<shift) >> shift
	case first >= 0xd4 && first <= 0xd8:
		take(1<<(first-0xd4) + 1)
	case first >= 0xd9 && first <= 0xdb:
		value = string(take(number(1 << (first - 0xd9))))
	case first == 0xdc, first == 0xdd:
		value = list(number(2 << (first - 0xdc)))
	case first == 0xde, first == 0xdf:
		value = table(number(2 << (first - 0xde)))
	case first >= 0xe0:
		value = int64(int8(first))
	default:
		err = errPacked
	}
	return value, b, err
}

// ---- the bulk port --------------------------------------------------------------------------

const (
	up   = 1 // both the kind of a chunk and the first byte of its nonce
	down = 2

	headBytes = 24
	tagBytes  = 16
)

// head is the part of a chunk that is in the clear.
type head struct {
	kind     byte
	length   uint32
	round    uint32
	transfer uint32
	offset   uint64
}

func (h head) pack() []byte {
	b := make([]byte, headBytes, headBytes+int(h.length)+tagBytes)
	b[0] = h.kind
	binary.LittleEndian.PutUint32(b[4:], h.length)
	binary.LittleEndian.PutUint32(b[8:], h.round)
	binary.LittleEndian.PutUint32(b[12:], h.transfer)
	binary.LittleEndian.PutUint64(b[16:], h.offset)
	return b
}

func unpackHead(b []byte) head {
	le := binary.LittleEndian
	return head{b[0], le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint64(b[16:])}
}

// ticket is the right to one bulk connection.
type ticket struct {
	port       int
	id, secret []byte
	sealed     bool
	about      []byte
}

// newTicket makes one of the gateway's answer.
func newTicket(m fields, gateway, client, job string) ticket {
	port, _ := m["port"].(int64)
	t := ticket{port: int(port), sealed: m["mode"] != "plain", about: []byte(job)}
	t.id, _ = m["id"].([]byte)
	t.secret, _ = m["secret"].([]byte)
	if t.sealed {
		t.about = []byte(gateway + client + job)
	}
	return t
}

// key is K(label) of the protocol.
func (t ticket) key(label string) []byte {
	mac := hmac.New(sha256.New, t.secret)
	mac.Write([]byte("lifl bulk 1 " + label + "\x00"))
	mac.Write(t.opening())
	mac.Write(t.about)
	return mac.Sum(nil)
}

func (t ticket) opening() []byte {
	b := []byte("LIFL\x01\x00\x00\x00")
	if t.sealed {
		b[5] = 1
	}
	return append(b, t.id...)
}

// channel seals or opens the chunks of one direction of one connection, in their order.
type channel struct {
	gcm   cipher.AEAD // nil: plain
	about []byte
	nonce [12]byte
	count uint64
}

func (t ticket) channel(direction byte) (*channel, error) {
	c := &channel{about: t.about}
	if !t.sealed {
		return c, nil
	}
	c.nonce[0] = direction
	block, err := aes.NewCipher(t.key(map[byte]string{up: "up", down: "down"}[direction]))
	if err == nil {
		c.gcm, err = cipher.NewGCM(block)
	}
	return c, err
}

// next is the nonce and the associated data of the next chunk.
func (c *channel) next(packed []byte) (nonce, with []byte) {
	binary.LittleEndian.PutUint64(c.nonce[4:], c.count)
	c.count++
	return c.nonce[:], append(append([]byte{}, packed...), c.about...)
}

// seal makes a chunk as it is on the wire.
func (c *channel) seal(h head, payload []byte) []byte {
	packed := h.pack()
	if c.gcm == nil {
		return append(append(packed, payload...), make([]byte, tagBytes)...)
	}
	nonce, with := c.next(packed)
	return c.gcm.Seal(packed, nonce, payload, with)
}

// open checks what follows a head on the wire, payload and tag, and returns the payload.
func (c *channel) open(packed, body []byte) ([]byte, error) {
	if c.gcm == nil {
		return body[:len(body)-tagBytes], nil
	}
	nonce, with := c.next(packed)
	return c.gcm.Open(body[:0], nonce, body, with)
}

// upload is one transfer of an update.
type upload struct {
	round, transfer uint32
	data            []byte
}

// link is one bulk connection, from its ticket on.
type link struct {
	tell    func(event) // run's
	uploads chan upload
	current uint32 // number of the transfer that is wanted, atomic; chunks of others are not sent
	over    chan struct{}
	once    sync.Once
	mutex   sync.Mutex
	conn    net.Conn
}

// event is what a link tells run: it is open, it is over, an update is sent, a chunk has come.
type event struct {
	link    *link
	what    string
	err     error
	head    head
	payload []byte
}

func openLink(host string, t ticket, tell func(event)) *link {
	l := &link{tell: tell, uploads: make(chan upload, 16), over: make(chan struct{})}
	go func() {
		err := l.read(host, t)
		l.close()
		tell(event{link: l, what: "over", err: err})
	}()
	return l
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.over)
		l.mutex.Lock()
		defer l.mutex.Unlock()
		if l.conn != nil {
			l.conn.Close()
		}
	})
}

// read connects, greets and reads chunks until the connection ends.
func (l *link) read(host string, t ticket) error {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(t.port)), 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	l.mutex.Lock()
	l.conn = conn
	l.mutex.Unlock()
	select {
	case <-l.over: // closed while it was being made
		return nil
	default:
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(append(t.opening(), t.key("hello")...)); err != nil {
		return err
	}
	answer := make([]byte, sha256.Size)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("no answer to the greeting: %w", err)
	}
	if !hmac.Equal(answer, t.key("welcome")) {
		return errors.New("whoever answers at the bulk port does not know the ticket's secret")
	}
	conn.SetDeadline(time.Time{})
	sealing, err := t.channel(up)
	if err != nil {
		return err
	}
	opening, err := t.channel(down)
	if err != nil {
		return err
	}
	go l.write(conn, sealing)
	l.tell(event{link: l, what: "open"})
	packed := make([]byte, headBytes)
	for {
		if _, err := io.ReadFull(conn, packed); err != nil {
			return err
		}
		h := unpackHead(packed)
		if h.kind != down || h.length < 1 || h.length > chunkBytes {
			return fmt.Errorf("a chunk's head is wrong: %+v", h)
		}
		body := make([]byte, h.length+tagBytes)
		if _, err := io.ReadFull(conn, body); err != nil {
			return err
		}
		payload, err := opening.open(packed, body)
		if err != nil {
			return fmt.Errorf("chunk at %d of model %d: %w", h.offset, h.round, err)
		}
		l.tell(event{link: l, what: "chunk", head: h, payload: payload})
	}
}

// write sends updates; of one that is not wanted any more it leaves the rest out.
func (l *link) write(conn net.Conn, sealing *channel) {
	for {
		select {
		case <-l.over:
			return
		case u := <-l.uploads:
			at := 0
			for at < len(u.data) && atomic.LoadUint32(&l.current) == u.transfer {
				end := at + chunkBytes
				if end > len(u.data) {
					end = len(u.data)
				}
				h := head{up, uint32(end - at), u.round, u.transfer, uint64(at)}
				if _, err := conn.Write(sealing.seal(h, u.data[at:end])); err != nil {
					l.close() // the reader says why
					return
				}
				at = end
			}
			l.tell(event{link: l, what: "sent", head: head{transfer: u.transfer}})
		}
	}
}

// ---- the client -----------------------------------------------------------------------------

// file is a client file.
type file struct {
	Job       string
	Endpoint  string
	ServerKey string `json:"server_key"`
	PublicKey string `json:"public_key"`
	SecretKey string `json:"secret_key"`
	Index     int
}

// What the client waits for.
type waiting string

const (
	forWelcome waiting = "welcome" // after hello
	forRound   waiting = "round"   // nothing to say meanwhile
	forModel   waiting = "model"
	forAck     waiting = "ack"
)

type client struct {
	file
	poller           *zmq.Poller
	control, monitor *zmq.Socket
	monitors         int // made so far: each has a name of its own
	bell, button     *zmq.Socket
	ringing          sync.Mutex
	events           chan event

	endpoint, key string // of the gateway
	connected     bool
	lostAt        time.Time // when not connected
	greeted       bool      // on this connection
	again         time.Time // when to say what is waited for again

	layout []tensor
	length int
	digest []byte
	simple bool // the job asks for the simple lane

	start   int64 // how often the run was started, as the gateway says
	began   int64 // the start in which `round` was heard of
	waiting waiting
	round   int64
	made    int64 // the start in which the model was made that the round starts from
	model   []byte
	have    int // bytes of the model, from the first one on
	asked   int // the same with what was asked for, simple lane
	update  []byte
	weight  float64
	sent    int // bytes of the update, simple lane
	grant   any // what came with `go`, simple lane

	link      *link
	tickets   int  // asked for: the answer to the last one is good
	open      bool // the link's greeting was answered
	transfers int  // numbers used in `get`
	getting   int  // number of the `get` being answered; 0: none
	sending   bool // an upload is with the link
}

func newClient(f file) (*client, error) {
	c := &client{file: f, endpoint: f.Endpoint, key: f.ServerKey, events: make(chan event, 64)}
	var err error
	if c.bell, err = zmq.NewSocket(zmq.PULL); err != nil {
		return nil, err
	}
	if err = c.bell.Bind("inproc://bell"); err != nil {
		return nil, err
	}
	if c.button, err = zmq.NewSocket(zmq.PUSH); err != nil {
		return nil, err
	}
	return c, c.button.Connect("inproc://bell")
}

// tell hands an event to run; other goroutines call it.
func (c *client) tell(e event) {
	c.events <- e
	c.ringing.Lock()
	defer c.ringing.Unlock()
	c.button.SendBytes(nil, zmq.DONTWAIT) // fails when 1000 rings wait, and then one more is nothing
}

// connect makes a new control connection to the gateway at endpoint.
func (c *client) connect() error {
	c.drop("leaving")
	if c.control != nil {
		c.monitor.Close()
		c.control.Close()
	}
	var err error
	if c.control, err = zmq.NewSocket(zmq.DEALER); err != nil {
		return err
	}
	c.monitors++
	name := fmt.Sprintf("inproc://monitor-%d", c.monitors)
	for _, step := range []func() error{
		func() error { return c.control.ClientAuthCurve(c.key, c.PublicKey, c.SecretKey) },
		func() error { return c.control.SetLinger(0) },
		func() error { return c.control.SetSndhwm(0) },
		func() error { return c.control.SetRcvhwm(0) },
		func() error { return c.control.SetHeartbeatIvl(2 * time.Second) },
		func() error { return c.control.SetHeartbeatTimeout(10 * time.Second) },
		func() error { return c.control.SetReconnectIvl(pause) },
		// What was said to a gateway that is gone must not reach its successor before a hello.
		func() error { return c.control.SetImmediate(true) },
		func() error {
			return c.control.Monitor(name, zmq.EVENT_HANDSHAKE_SUCCEEDED|zmq.EVENT_DISCONNECTED|
				zmq.EVENT_HANDSHAKE_FAILED_AUTH)
		},
		func() error {
			c.monitor, err = zmq.NewSocket(zmq.PAIR)
			return err
		},
		func() error { return c.monitor.Connect(name) },
		func() error { return c.control.Connect(c.endpoint) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("connecting to %s: %w", c.endpoint, err)
		}
	}
	c.poller = zmq.NewPoller()
	c.poller.Add(c.monitor, zmq.POLLIN) // first: what it says comes before what is received
	c.poller.Add(c.control, zmq.POLLIN)
	c.poller.Add(c.bell, zmq.POLLIN)
	c.connected, c.greeted, c.lostAt = false, false, time.Now()
	c.waiting, c.again = forWelcome, time.Now().Add(silence)
	return nil
}

// run takes part in the job until it is over.
func (c *client) run() error {
	if err := c.connect(); err != nil {
		return err
	}
	for {
		ready, err := c.poller.Poll(time.Until(c.again))
		if err != nil {
			return err
		}
		for _, polled := range ready {
			switch polled.Socket {
			case c.monitor:
				err = c.connection()
			case c.bell:
				if _, err = c.bell.RecvBytes(0); err == nil {
					err = c.bulk()
				}
			case c.control:
				var parts [][]byte
				if parts, err = c.control.RecvMessageBytes(0); err == nil {
					var done bool
					if done, err = c.message(parts); done {
						return nil
					}
				}
			default: // of a connection that a redirect has ended in this very turn
			}
			if err != nil {
				return err
			}
		}
		if !time.Now().Before(c.again) {
			if !c.connected && time.Since(c.lostAt) > giveUp {
				return fmt.Errorf("no connection to the gateway at %s for %v; is the run still there?", c.endpoint, giveUp)
			}
			c.say()
		}
	}
}

// connection hears from the monitor whether there is one.
func (c *client) connection() error {
	what, _, value, err := c.monitor.RecvEvent(0)
	switch {
	case err != nil:
		return err
	case what == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
		return fmt.Errorf("the gateway at %s does not know this client's key (ZAP status %d): enroll it", c.endpoint, value)
	case what == zmq.EVENT_DISCONNECTED:
		if c.connected {
			log.Printf("lost the gateway at %s", c.endpoint)
			c.lostAt = time.Now()
		}
		c.connected, c.greeted = false, false
	case what == zmq.EVENT_HANDSHAKE_SUCCEEDED:
		c.connected = true
		c.say()
	}
	return nil
}

// say says what is waited for, again; hello first on a new connection.
func (c *client) say() {
	c.again = time.Now().Add(silence)
	if !c.connected {
		return
	}
	if !c.greeted || c.waiting == forWelcome {
		c.greeted = c.send(fields{"t": "hello"}, nil)
		if !c.greeted { // the socket learns of its connection a little after its monitor
			c.again = time.Now().Add(pause)
			return
		}
	}
	switch c.waiting {
	case forModel:
		c.get()
	case forAck:
		c.put()
	}
}

// send says something on the control channel, and whether there was a connection for it.
func (c *client) send(message fields, payload []byte) bool {
	message["job"] = c.Job
	parts := []any{pack(nil, message)}
	if payload != nil {
		parts = append(parts, payload)
	}
	_, err := c.control.SendMessageDontwait(parts...)
	return err == nil
}

// linked says whether the bulk connection is open, and takes the next step towards one.
func (c *client) linked() bool {
	if c.link == nil {
		c.tickets++
		c.send(fields{"t": "ticket", "n": c.tickets}, nil)
	}
	return c.link != nil && c.open
}

// drop closes the bulk connection.
func (c *client) drop(why string) {
	if c.link != nil {
		c.link.close()
		log.Printf("bulk connection closed: %s", why)
	}
	c.link, c.open, c.getting, c.sending = nil, false, 0, false
}

// get asks for what is missing of the model.
func (c *client) get() {
	ask := fields{"t": "get", "round": int(c.round - 1), "at": c.have, "n": c.length - c.have}
	if c.simple {
		for ; c.asked < c.length && c.asked < c.have+getsAtOnce*getBytes; c.asked += getBytes {
			n := c.length - c.asked
			if n > getBytes {
				n = getBytes
			}
			c.send(fields{"t": "get", "round": int(c.round - 1), "at": c.asked, "n": n}, nil)
		}
		return
	}
	if !c.linked() || c.getting != 0 { // what is under way over TCP comes, or the connection ends
		return
	}
	c.transfers++
	ask["transfer"] = c.transfers
	if c.send(ask, nil) {
		c.getting = c.transfers
	}
}

// put says that there is an update.
func (c *client) put() {
	message := fields{
		"t": "put", "kind": "update", "round": int(c.round), "length": c.length,
		"digest": c.digest, "weight": c.weight, "metrics": fields{"index": float64(c.Index)},
	}
	var payload []byte
	if c.length <= smallBytes {
		payload = c.update
	}
	if payload == nil && !c.simple {
		if !c.linked() || c.sending {
			return
		}
		message["lane"] = "fast"
	}
	c.send(message, payload)
}

// message acts on one message of the gateway, and says whether the job is over.
func (c *client) message(parts [][]byte) (done bool, err error) {
	value, _, err := unpack(parts[0])
	m, ok := value.(fields)
	if err != nil || !ok {
		return false, fmt.Errorf("the gateway said %x: %v", parts[0], err)
	}
	if m["job"] != c.Job && m["job"] != "" { // none: of a key without a right in any job
		return false, nil
	}
	number, numbered := m["round"].(int64)
	switch m["t"] {
	case "welcome":
		list, _ := m["layout"].([]any)
		if c.layout, c.length, err = newLayout(list); err != nil {
			return false, err
		}
		c.digest, _ = m["digest"].([]byte)
		settings, _ := m["settings"].(fields)
		c.simple = settings["lane"] == "zmq"
		c.start, _ = settings["start"].(int64)
		if c.waiting == forWelcome {
			c.waiting = forRound
		}
	case "round":
		need, _ := m["need"].(bool)
		var payload []byte
		if len(parts) > 1 {
			payload = parts[1]
		}
		made, _ := m["made"].(int64)
		c.begin(number, made, need, payload)
	case "ticket":
		if n, _ := m["n"].(int64); c.link == nil && int(n) == c.tickets {
			c.dial(m)
		}
	case "gone":
		if c.waiting == forModel && number == c.round-1 {
			c.getting, c.waiting = 0, forRound
		}
	case "model":
		at, _ := m["at"].(int64)
		if c.waiting == forModel && number == c.round-1 && len(parts) > 1 {
			c.piece(int(at), parts[1])
			if c.waiting == forModel {
				c.get()
			}
		}
	case "go":
		if c.waiting == forAck && number == c.round {
			c.upload(m)
		}
	case "wait":
		if c.waiting == forAck && number == c.round {
			c.again = time.Now().Add(silence)
		}
	case "more":
		if c.waiting == forAck && number == c.round {
			n, _ := m["n"].(int64)
			c.chunks(n)
		}
	case "ack":
		if c.waiting == forAck && number == c.round {
			log.Printf("round %d: the update counts", number)
			c.waiting, c.sending = forRound, false
		}
	case "reject":
		return false, c.rejected(m, number, numbered)
	case "redirect":
		c.endpoint, _ = m["endpoint"].(string)
		c.key, _ = m["key"].(string)
		log.Printf("redirected to %s", c.endpoint)
		return false, c.connect()
	case "done":
		log.Printf("done after round %d", number)
		return true, nil
	}
	return false, nil
}

// begin acts on `round`.
func (c *client) begin(number, made int64, need bool, model []byte) {
	if c.start != c.began { // the run goes on from its checkpoint
		c.began = c.start
		if number != c.round || made != c.made {
			c.round = 0 // what is here was made from another model
		}
	}
	if number < c.round {
		return
	}
	if number > c.round { // what was under way for an earlier round is void
		if c.getting != 0 || c.sending {
			c.drop("a new round")
		}
		c.round, c.made, c.model, c.update = number, made, nil, nil
	}
	switch {
	case !need:
		c.waiting = forRound
	case c.update != nil:
		c.waiting = forAck
		c.say()
	case len(model) == c.length:
		c.model = model
		c.trained()
	default:
		if c.model == nil {
			c.model, c.have = make([]byte, c.length), 0
		}
		c.waiting, c.asked = forModel, c.have
		c.say()
	}
}

// piece takes bytes of the model, which come in order.
func (c *client) piece(at int, payload []byte) {
	if at != c.have || at+len(payload) > c.length {
		return // of a `get` that was said twice
	}
	copy(c.model[at:], payload)
	c.have += len(payload)
	c.again = time.Now().Add(silence)
	if c.have == c.length {
		c.getting = 0
		c.trained()
	}
}

// trained computes the update. What the gateway says meanwhile waits in the socket.
func (c *client) trained() {
	c.weight = train(c.model, c.layout, c.Index)
	c.update, c.model = c.model, nil
	c.waiting = forAck
	c.say()
}

// dial makes the bulk connection that a ticket is for.
func (c *client) dial(m fields) {
	where, err := url.Parse(c.endpoint)
	if err != nil {
		return
	}
	c.link = openLink(where.Hostname(), newTicket(m, c.key, c.PublicKey, c.Job), c.tell)
}

// bulk acts on what the bulk connection's goroutines tell.
func (c *client) bulk() error {
	e := <-c.events
	if e.link != c.link {
		return nil // of an earlier connection
	}
	switch e.what {
	case "open":
		c.open = true
		c.say()
	case "sent":
		if c.sending && e.head.transfer == atomic.LoadUint32(&e.link.current) {
			c.sending = false
			c.again = time.Now().Add(silence)
		}
	case "chunk":
		if c.waiting == forModel && int(e.head.transfer) == c.getting && int64(e.head.round) == c.round-1 {
			c.piece(int(e.head.offset), e.payload)
		}
	case "over":
		c.drop(fmt.Sprint(e.err))
		c.again = time.Now().Add(pause)
	}
	return nil
}

// upload acts on `go`: a slot is there.
func (c *client) upload(m fields) {
	transfer, fast := m["transfer"].(int64)
	if !fast {
		n, _ := m["n"].(int64)
		c.sent, c.grant = 0, m["grant"]
		c.chunks(n)
		return
	}
	if !c.linked() || atomic.LoadUint32(&c.link.current) == uint32(transfer) {
		return
	}
	atomic.StoreUint32(&c.link.current, uint32(transfer))
	c.sending = true
	c.link.uploads <- upload{uint32(c.round), uint32(transfer), c.update}
}

// chunks sends the next n of the update, on the simple lane.
func (c *client) chunks(n int64) {
	for ; n > 0 && c.sent < len(c.update); n-- {
		end := c.sent + chunkBytes
		if end > len(c.update) {
			end = len(c.update)
		}
		c.send(fields{
			"t": "chunk", "round": int(c.round), "kind": "update", "at": c.sent, "grant": c.grant,
		}, c.update[c.sent:end])
		c.sent = end
	}
	c.again = time.Now().Add(underWay) // a `put` begins it anew
}

// rejected acts on `reject`.
func (c *client) rejected(m fields, number int64, numbered bool) error {
	retry, _ := m["retry"].(bool)
	log.Printf("refused %v of round %v: %v: %v", m["of"], m["round"], m["code"], m["text"])
	switch m["code"] {
	case "not-enrolled", "revoked", "displaced", "not-allowed", "unknown-job":
		return fmt.Errorf("the gateway has no more to say to this client: %v", m["text"])
	}
	switch {
	case numbered && number < c.round-1:
	case retry:
		c.sending, c.asked = false, c.have
		c.again = time.Now().Add(pause)
	case m["of"] == "hello" || m["of"] == "ticket":
		return fmt.Errorf("the gateway refuses %v: %v", m["of"], m["text"])
	case !numbered || number == c.round || m["of"] == "get":
		c.waiting = forRound
	}
	return nil
}

func main() {
	log.SetFlags(log.Lmicroseconds)
	path := os.Getenv("LIFL_CLIENT")
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatalf("LIFL_CLIENT is %q: set it to a client file of the run, for example runs/latest/clients/client-0.json: %v", path, err)
	}
	var f file
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&f); err != nil {
		log.Fatalf("%s is not a client file: %v", path, err)
	}
	if !zmq.HasCurve() {
		log.Fatal("this libzmq was built without CURVE, which LIFL's control channel needs")
	}
	c, err := newClient(f)
	if err == nil {
		err = c.run()
	}
	if err != nil {
		log.Fatalf("%s: %v", f.Job, err)
	}
}
