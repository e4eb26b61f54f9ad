// SPDX-License-Identifier: Apache-2.0

// Package lockkeeper holds Redis locks through the lock-keeper sidecar, and tells of a loss before
// anybody else can have the lock.
//
//	keeper := lockkeeper.New("")
//	defer keeper.Close()
//	lease, err := keeper.Acquire(ctx, "actor:42", lockkeeper.Options{Wait: 10 * time.Second})
//	if err != nil {
//		return err // errors.Is(err, lockkeeper.ErrLockHeld)
//	}
//	defer lease.Release()
//	return work(lease.Context(), lease.Fence()) // ends with ErrLostActorLock when the lock is lost
//
// A lease is valid by CLOCK_BOOTTIME alone (Lease.Valid), so also a sidecar that is frozen, killed or
// starved cannot make a holder act too long. When the sidecar goes away, the client connects again and
// adopts its leases from the next one; a lease that nobody has confirmed in time is lost, and its
// context ends while nobody else can have the key.
package lockkeeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// DefaultSocket is where the sidecar listens unless LOCK_KEEPER_SOCKET says otherwise.
const DefaultSocket = "/run/lock-keeper/lock-keeper.sock"

const (
	protocolVersion = 1
	maxReply        = 1 << 20 // of a line; more is no lock-keeper
	retryMs         = 20      // between attempts to connect, doubling up to
	retryMaxMs      = 250
	adoptRetryMs    = 100
	never           = math.MaxInt64
)

// ---- Errors ----

// Error is a refusal, under its name in the protocol. errors.Is finds it by that name.
type Error struct {
	Name    string // errLockHeld, ...
	Message string // for people
	// Of errLockHeld: who holds the key, and when it runs out unless it is renewed (negative: it has
	// no TTL).
	Holder     *Holder
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Name + ": " + e.Message
}

// Is reports whether target has the same name.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Name == e.Name
}

// The protocol's errors, and this client's own: ErrSidecarUnavailable says that no sidecar listens at
// the socket, or that it did not answer.
var (
	ErrBadRequest         error = &Error{Name: "errBadRequest"}
	ErrUnknownOp          error = &Error{Name: "errUnknownOp"}
	ErrLineTooLong        error = &Error{Name: "errLineTooLong"}
	ErrLockHeld           error = &Error{Name: "errLockHeld"}
	ErrCancelled          error = &Error{Name: "errCancelled"}
	ErrUnknownLease       error = &Error{Name: "errUnknownLease"}
	ErrLostActorLock      error = &Error{Name: "errLostActorLock"}
	ErrNotPermitted       error = &Error{Name: "errNotPermitted"}
	ErrLimitExceeded      error = &Error{Name: "errLimitExceeded"}
	ErrRedisUnavailable   error = &Error{Name: "errRedisUnavailable"}
	ErrRedisRefused       error = &Error{Name: "errRedisRefused"}
	ErrShuttingDown       error = &Error{Name: "errShuttingDown"}
	ErrInternal           error = &Error{Name: "errInternal"}
	ErrSidecarUnavailable error = &Error{Name: "errSidecarUnavailable"}
)

// LostError is how a lease was lost; it is an ErrLostActorLock.
type LostError struct {
	// The protocol's (deadline, unreachable, lost, shutdown, released, moved, broken) or this
	// client's own: disconnected (the sidecar went away and none took over in time), silent (it
	// confirmed nothing in time), closed (the client was closed).
	Reason string
	// How long, from when it was told, nobody else could have the key unless Redis itself loses it.
	Safe    time.Duration
	Message string
}

func (e *LostError) Error() string {
	return fmt.Sprintf("errLostActorLock (%s): %s", e.Reason, e.Message)
}

// Unwrap returns ErrLostActorLock.
func (e *LostError) Unwrap() error { return ErrLostActorLock }

// ---- What is said ----

// Holder is who holds a key.
type Holder struct {
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	UID     int64  `json:"uid"`
	Label   string `json:"label"`
	Fence   int64  `json:"fence"`
	Foreign bool   `json:"foreign"` // the key's value is none of lock-keeper's
}

// Status is what the sidecar knows of one key, or of one of its leases.
type Status struct {
	Key        string `json:"key"`
	Held       bool   `json:"held"`  // of Inspect
	Here       bool   `json:"here"`  // of Inspect: through this sidecar
	State      string `json:"state"` // of List: held, waiting, ending
	Holder     Holder `json:"holder"`
	Fence      int64  `json:"fence"`
	HeldMs     int64  `json:"held_ms"`
	ValidMs    int64  `json:"valid_ms"`
	WaitedMs   int64  `json:"waited_ms"`
	DeadlineMs int64  `json:"deadline_in_ms"`
	TTLLeftMs  *int64 `json:"ttl_left_ms"` // nil without a TTL
	SinceMs    int64  `json:"since_ms"`
}

type message struct {
	OK           bool            `json:"ok"`
	Event        string          `json:"event"`
	ID           json.RawMessage `json:"id"`
	Error        string          `json:"error"`
	Reason       string          `json:"reason"`
	Message      string          `json:"message"`
	Lease        string          `json:"lease"`
	TTLMs        int64           `json:"ttl_ms"`
	ValidUntilMs int64           `json:"valid_until_ms"`
	RetryAfterMs *int64          `json:"retry_after_ms"`
	SafeMs       *int64          `json:"safe_ms"`
	Freed        *bool           `json:"freed"`
	Broken       bool            `json:"broken"`
	Redis        string          `json:"redis"`
	RedisError   string          `json:"redis_error"`
	Leases       []Status        `json:"leases"`
	Next         string          `json:"next"`
	DeadlineOfMs int64           `json:"deadline_ms"`
	Status
	Hello
}

// Hello is what the sidecar is and how it is configured.
type Hello struct {
	Protocol       int      `json:"protocol"`
	Server         string   `json:"server"`
	Instance       string   `json:"instance"`
	Caps           []string `json:"caps"`
	LockTTLMs      int64    `json:"lock_ttl_ms"`
	HeartbeatMs    int64    `json:"heartbeat_ms"`
	RevokeMarginMs int64    `json:"revoke_margin_ms"`
	MaxDeadlineMs  int64    `json:"max_deadline_ms"`
	MaxLine        int      `json:"max_line"`
	NowMs          int64    `json:"now_ms"`
}

func (m *message) err() *Error {
	e := &Error{Name: m.Error, Message: m.Message}
	if m.Error == "errLockHeld" {
		holder := m.Holder
		e.Holder, e.RetryAfter = &holder, -1
		if m.RetryAfterMs != nil {
			e.RetryAfter = time.Duration(*m.RetryAfterMs) * time.Millisecond
		}
	}
	return e
}

func refusal(name error, format string, values ...any) *message {
	return &message{Error: name.(*Error).Name, Message: fmt.Sprintf(format, values...)}
}

func is(m *message, names ...error) bool {
	for _, name := range names {
		if m.Error == name.(*Error).Name {
			return true
		}
	}
	return false
}

// nowMs reads CLOCK_BOOTTIME, the clock of the protocol, which goes on while the machine sleeps.
func nowMs() int64 {
	const clockBoottime = 7
	var t syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockBoottime,
		uintptr(unsafe.Pointer(&t)), 0)
	if errno != 0 {
		panic(errno) // Linux has it since 2.6.39
	}
	return int64(t.Sec)*1000 + int64(t.Nsec)/1e6
}

// ---- Lease ----

// Lease is a lock that is held. Its methods may be called from any goroutine.
type Lease struct {
	client   *Client
	key      string
	token    string
	fence    int64
	ttl      time.Duration
	binding  map[string]any
	ctx      *leaseContext
	cancel   func(cause error)
	deadline atomic.Int64 // ms
	until    atomic.Int64 // CLOCK_BOOTTIME here, ms
	lost     atomic.Pointer[LostError]
	released atomic.Bool
	freed    atomic.Bool

	// Under the client's lock.
	margin    int64
	confirmed bool     // on the connection of now
	adoptAt   int64    // when to ask again; 0: not
	crossed   *message // a revoked that crossed our release
}

type leaseKey struct{}

type leaseContext struct {
	context.Context
	lease  *Lease
	isLost atomic.Bool
}

// Err is ErrLostActorLock when the lease was lost.
func (c *leaseContext) Err() error {
	err := c.Context.Err()
	if err != nil && c.isLost.Load() {
		return ErrLostActorLock
	}
	return err
}

func (c *leaseContext) Value(key any) any {
	if key == (leaseKey{}) {
		return c.lease
	}
	return c.Context.Value(key)
}

// Cause returns the *LostError with which the lease of ctx, or of a context that ctx was made from,
// was lost; else ctx.Err(). With Go 1.20 and later, context.Cause(ctx) says the same.
func Cause(ctx context.Context) error {
	lease, ok := ctx.Value(leaseKey{}).(*Lease)
	if ok && lease.ctx.isLost.Load() && ctx.Err() != nil {
		return lease.lost.Load()
	}
	return ctx.Err()
}

// Context is made from the one that was given to Acquire. It ends when that does, when the lease is
// released, and when it is lost; then Err is ErrLostActorLock, and Cause says why.
func (l *Lease) Context() context.Context { return l.ctx }

// Key is what is locked.
func (l *Lease) Key() string { return l.key }

// Fence is the fencing token: put it into every write that the lock protects.
func (l *Lease) Fence() int64 { return l.fence }

// TTL is how long the key outlives the last heartbeat.
func (l *Lease) TTL() time.Duration { return l.ttl }

// Deadline is the workflow deadline in effect, counted from the grant.
func (l *Lease) Deadline() time.Duration { return time.Duration(l.deadline.Load()) * time.Millisecond }

// Token is the lease's digits. Whoever has them can release or adopt it: keep them secret.
func (l *Lease) Token() string { return l.token }

// Remaining is for how long Valid stays true if no heartbeat succeeds any more.
func (l *Lease) Remaining() time.Duration {
	left := l.until.Load() - nowMs()
	if left < 0 || l.lost.Load() != nil || l.released.Load() {
		return 0
	}
	return time.Duration(left) * time.Millisecond
}

// Valid reports whether one may act on the key now. It reads a clock and asks nobody, so it is right
// with the sidecar frozen or dead, too.
func (l *Lease) Valid() bool { return l.Remaining() > 0 }

// Check is nil while the lease is valid, and a *LostError from then on.
func (l *Lease) Check() error {
	if l.Valid() {
		return nil
	}
	l.client.mu.Lock()
	defer l.client.mu.Unlock()
	if l.Valid() { // a heartbeat has come meanwhile
		return nil
	}
	if !l.released.Load() {
		l.client.expire(l)
	}
	if lost := l.lost.Load(); lost != nil {
		return lost
	}
	return &LostError{Reason: "released", Message: "the lease was released"}
}

// Release gives the key back and ends the context. It returns a *LostError if the lease was lost; then
// it tells the sidecar that the work has stopped, which may free the key early. Where no sidecar can
// be told, the key runs out, or the next sidecar is told. Called again it does nothing.
func (l *Lease) Release() error {
	done := make(chan error, 1)
	l.client.release(l, func(err error) { done <- err })
	err := <-done
	l.cancel(context.Canceled)
	return err
}

// Freed reports whether Release is known to have freed the key.
func (l *Lease) Freed() bool { return l.freed.Load() }

// Extend moves the workflow deadline, counted from the grant; it returns what is in effect.
func (l *Lease) Extend(ctx context.Context, deadline time.Duration) (time.Duration, error) {
	reply, err := l.client.call(ctx, map[string]any{
		"op": "extend", "lease": l.token, "deadline_ms": deadline.Milliseconds()})
	if err != nil {
		return 0, err
	}
	l.deadline.Store(reply.DeadlineOfMs)
	return l.Deadline(), nil
}

// ---- Client ----

// Options of Acquire. What is zero has the sidecar's default.
type Options struct {
	// How long to wait for the key: 0 tries once; negative, until the context ends. A wait outlasts
	// the absence of the sidecar, too.
	Wait     time.Duration
	TTL      time.Duration
	Deadline time.Duration // of the workflow, counted from the grant
	Label    string        // shown to people
	// What ends the lease: "connection" (the default), "pid" (the end of the process PID, by default
	// this one) or "none" (its release or deadline).
	Bind string
	PID  int
	// What becomes of the key then: "release" (the default) or "expire".
	OnDisconnect string
}

func (o *Options) members(key string) map[string]any {
	members := map[string]any{"op": "acquire", "key": key}
	for name, value := range map[string]string{
		"label": o.Label, "bind": o.Bind, "on_disconnect": o.OnDisconnect} {
		if value != "" {
			members[name] = value
		}
	}
	for name, value := range map[string]int64{
		"ttl_ms": o.TTL.Milliseconds(), "deadline_ms": o.Deadline.Milliseconds(), "pid": int64(o.PID)} {
		if value != 0 {
			members[name] = value
		}
	}
	return members
}

type request struct {
	members map[string]any
	onReply func(*message) // under the client's lock
	until   int64          // how long it may wait (now: not at all)
	timed   bool           // somebody is to be told if no answer comes
	sent    bool
	expires int64
}

// Client is a client of one sidecar, for any number of leases and goroutines. It connects when it is
// first needed.
//
// A lease is in leases from its grant until it is lost, or its release was answered; while it is
// released there, its key is still to be given back.
type Client struct {
	// How long the sidecar may take to answer, beside the time that an acquire waits. To be set
	// before the first call.
	Timeout time.Duration

	path string
	kick chan struct{}

	mu        sync.Mutex
	running   bool
	closed    bool
	conn      net.Conn // nil: none
	up        bool     // hello was answered
	askedAt   int64
	offset    int64 // from the sidecar's clock to ours
	hello     Hello
	lastWords *message
	why       *message // there is no connection
	retry     int64
	retryAt   int64
	lastID    int64
	leases    map[string]*Lease
	requests  map[int64]*request
}

// New makes a client of the sidecar at this socket; "" is LOCK_KEEPER_SOCKET, or DefaultSocket.
func New(socket string) *Client {
	if socket == "" {
		socket = os.Getenv("LOCK_KEEPER_SOCKET")
	}
	if socket == "" {
		socket = DefaultSocket
	}
	return &Client{
		Timeout:  10 * time.Second,
		path:     socket,
		kick:     make(chan struct{}, 1),
		leases:   map[string]*Lease{},
		requests: map[int64]*request{},
	}
}

// Acquire asks for the lease of key. When ctx ends first, nothing is held, and the error is ctx's.
func (c *Client) Acquire(ctx context.Context, key string, options Options) (*Lease, error) {
	until := nowMs() + options.Wait.Milliseconds()
	if options.Wait < 0 {
		until = never
	}
	return c.grant(ctx, options.members(key), until)
}

// Adopt takes over a lease that another process, or another client, holds. Of the options it takes
// Bind, PID and OnDisconnect.
func (c *Client) Adopt(ctx context.Context, key, token string, options Options) (*Lease, error) {
	binding := Options{Bind: options.Bind, PID: options.PID, OnDisconnect: options.OnDisconnect}
	members := binding.members(key)
	members["op"], members["lease"] = "adopt", token
	return c.grant(ctx, members, nowMs())
}

// Hello asks what the sidecar is and how it is configured.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	reply, err := c.call(ctx, map[string]any{"op": "hello"})
	if err != nil {
		return Hello{}, err
	}
	return reply.Hello, nil
}

// Ping is nil if the sidecar lives and can use Redis, and ErrRedisUnavailable if only the first.
func (c *Client) Ping(ctx context.Context) error {
	reply, err := c.call(ctx, map[string]any{"op": "ping"})
	if err == nil && reply.Redis != "up" {
		err = refusal(ErrRedisUnavailable, "%s", reply.RedisError).err()
	}
	return err
}

// Inspect asks who holds the key, in whichever sidecar.
func (c *Client) Inspect(ctx context.Context, key string) (Status, error) {
	reply, err := c.call(ctx, map[string]any{"op": "inspect", "key": key})
	if err != nil {
		return Status{}, err
	}
	return reply.Status, nil
}

// List returns all leases of this sidecar.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	var rows []Status
	members := map[string]any{"op": "list", "limit": 500}
	for {
		reply, err := c.call(ctx, members)
		if err != nil {
			return nil, err
		}
		rows = append(rows, reply.Leases...)
		if reply.Next == "" {
			return rows, nil
		}
		members = map[string]any{"op": "list", "limit": 500, "after": reply.Next}
	}
}

// Break takes the key away from whoever holds it; for the sidecar's own user and root. It reports
// whether there was anything to take.
func (c *Client) Break(ctx context.Context, key string, grace time.Duration) (bool, error) {
	reply, err := c.call(ctx, map[string]any{
		"op": "break", "key": key, "grace_ms": grace.Milliseconds()})
	return err == nil && reply.Broken, err
}

// Close ends the connection, and with it the leases that are bound to it.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.dropLink()
	for _, lease := range c.leases {
		c.lose(lease, "closed", &message{Message: "the client was closed", SafeMs: new(int64)})
	}
	for id := range c.requests {
		c.finish(id, refusal(ErrSidecarUnavailable, "the client was closed"))
	}
	c.wake()
	return nil
}

func (c *Client) grant(ctx context.Context, members map[string]any, until int64) (*Lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type result struct {
		lease *Lease
		err   error
	}
	done := make(chan result, 1)
	c.mu.Lock()
	id := c.ask(members, func(reply *message) {
		if reply.OK {
			done <- result{lease: c.granted(ctx, members, reply)}
		} else {
			done <- result{err: reply.err()}
		}
	}, until, true)
	c.mu.Unlock()
	select {
	case r := <-done:
		return r.lease, r.err
	case <-ctx.Done():
	}
	c.mu.Lock()
	c.abandon(id)
	c.mu.Unlock()
	select {
	case r := <-done: // it came just before
		if r.lease != nil {
			_ = r.lease.Release()
		}
	default:
	}
	return nil, ctx.Err()
}

func (c *Client) call(ctx context.Context, members map[string]any) (*message, error) {
	done := make(chan *message, 1)
	c.mu.Lock()
	c.ask(members, func(reply *message) { done <- reply }, nowMs(), true)
	c.mu.Unlock()
	select {
	case reply := <-done:
		if !reply.OK {
			return nil, reply.err()
		}
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) release(lease *Lease, done func(error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	lost := lease.lost.Load()
	switch {
	case lease.released.Load() || (lost != nil && !c.up):
		done(lease.outcome(&message{OK: true, Freed: new(bool)}))
	case lost == nil && !c.up:
		lease.released.Store(true) // to be adopted, and given back then
		done(nil)
		c.wake()
	default:
		lease.released.Store(true)
		c.sendRelease(lease, done, true)
	}
}

func (c *Client) sendRelease(lease *Lease, done func(error), timed bool) {
	c.ask(map[string]any{"op": "release", "lease": lease.token}, func(reply *message) {
		if lease.lost.Load() == nil && is(reply, ErrSidecarUnavailable) {
			done(nil) // perhaps it was not read: adopted, it is sent again
			return
		}
		delete(c.leases, lease.token)
		done(lease.outcome(reply))
	}, nowMs(), timed)
}

// What a release comes to.
func (l *Lease) outcome(reply *message) error {
	lost := l.lost.Load()
	switch {
	case lost != nil:
		return lost
	case reply.OK:
		if reply.Freed == nil || *reply.Freed {
			l.freed.Store(true)
		}
	case is(reply, ErrLostActorLock):
		lost = &LostError{Reason: "lost", Message: reply.Message}
		if l.crossed != nil {
			lost.Reason = l.crossed.Reason
		}
		return lost
	} // else it is over all the same: the key is deleted later, or runs out
	return nil
}

// ---- Requests; all from here on is under the lock ----

func (c *Client) ask(members map[string]any, onReply func(*message), until int64, timed bool) int64 {
	c.lastID++
	id := c.lastID
	c.requests[id] = &request{members: members, onReply: onReply, until: until, timed: timed,
		expires: never}
	if c.closed {
		c.finish(id, refusal(ErrSidecarUnavailable, "the client is closed"))
		return id
	}
	if !c.running {
		c.running = true
		go c.run()
	}
	if c.up {
		c.send(id)
	} else if c.conn == nil {
		c.retryAt = 0
	}
	c.wake()
	return id
}

func (c *Client) send(id int64) {
	r := c.requests[id]
	now := nowMs()
	members := map[string]any{"id": id}
	for name, value := range r.members {
		members[name] = value
	}
	op := members["op"]
	if op == "acquire" {
		members["wait_ms"] = int64(-1)
		if r.until != never {
			members["wait_ms"] = max(0, r.until-now)
		}
	}
	if (op == "acquire" || op == "adopt") && c.has("notify") {
		members["notify"] = []string{"renewed"}
	}
	line, err := json.Marshal(members)
	if err != nil || len(line) > c.hello.MaxLine {
		c.finish(id, refusal(ErrLineTooLong, "the request is too long"))
		return
	}
	r.sent = true
	if r.timed && r.until != never {
		r.expires = max(r.until, now) + c.Timeout.Milliseconds()
	}
	c.write(append(line, '\n'))
}

func (c *Client) has(capability string) bool {
	for _, name := range c.hello.Caps {
		if name == capability {
			return true
		}
	}
	return false
}

// An error is the reader's to find.
func (c *Client) write(line []byte) {
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.conn.Write(line); err != nil {
		_ = c.conn.Close()
	}
}

func (c *Client) finish(id int64, reply *message) {
	r := c.requests[id]
	delete(c.requests, id)
	r.onReply(reply)
}

// Nobody takes its grant any more, if it comes all the same.
func (c *Client) abandon(id int64) {
	r := c.requests[id]
	if r == nil {
		return
	}
	r.onReply = c.giveBack
	r.timed, r.until, r.expires = false, 0, never
	if r.sent {
		c.ask(map[string]any{"op": "cancel", "target": id}, func(*message) {}, 0, false)
	} else {
		c.finish(id, refusal(ErrCancelled, "the wait was cancelled"))
	}
}

func (c *Client) timeOut(id int64, r *request) {
	late := c.noAnswer("no answer in time")
	switch {
	case !r.sent && c.why != nil:
		c.finish(id, c.why)
	case !r.sent || (r.members["op"] != "acquire" && r.members["op"] != "adopt"):
		c.finish(id, late)
	default:
		r.onReply(late)
		c.abandon(id)
	}
}

func (c *Client) noAnswer(why string) *message {
	return refusal(ErrSidecarUnavailable, "%s: %s", c.path, why)
}

// ---- The connection ----

func (c *Client) connectIfWanted() {
	wanted := len(c.leases) > 0 || len(c.requests) > 0
	if c.conn != nil || c.closed || !wanted || nowMs() < c.retryAt {
		return
	}
	conn, err := net.Dial("unix", c.path) // at once, or not at all
	if err != nil {
		c.refused(err)
		return
	}
	c.conn, c.askedAt, c.lastWords = conn, nowMs(), nil
	c.write([]byte(`{"op":"hello","id":0}` + "\n"))
	go c.read(conn)
}

func (c *Client) read(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 4096), maxReply)
	var err error
	for err == nil && lines.Scan() {
		err = c.received(conn, lines.Bytes())
	}
	if err == nil {
		err = lines.Err()
	}
	if err == nil {
		err = errors.New("the sidecar closed the connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn == c.conn {
		c.refused(err)
	}
	_ = conn.Close()
	c.wake()
}

// The connection could not be made, or is at its end.
func (c *Client) refused(err error) {
	now := nowMs()
	c.why = c.noAnswer(err.Error())
	if !c.up && c.lastWords != nil {
		c.why = c.lastWords
	}
	c.retry = min(max(retryMs, 2*c.retry), retryMaxMs)
	c.retryAt = now + c.retry
	if c.up {
		c.retryAt = now
	}
	c.dropLink()
	for _, lease := range c.leases {
		lease.confirmed, lease.adoptAt = false, 0
	}
	for id, r := range c.requests {
		r.sent, r.expires = false, never
		if now >= r.until {
			c.finish(id, c.why)
		}
	}
}

func (c *Client) dropLink() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.up = nil, false
}

func (c *Client) received(conn net.Conn, line []byte) error {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn != c.conn {
		return net.ErrClosed
	}
	defer c.wake()
	var id int64
	switch {
	case m.Event != "":
		c.onEvent(&m)
	case m.ID == nil:
		c.lastWords = &m // of a connection that is refused
	case json.Unmarshal(m.ID, &id) != nil:
	case id == 0:
		return c.onHello(&m)
	case c.requests[id] != nil && c.requests[id].sent:
		c.finish(id, &m)
	}
	return nil
}

func (c *Client) onHello(reply *message) error {
	if !reply.OK || reply.Protocol != protocolVersion {
		return fmt.Errorf("it does not speak protocol %d", protocolVersion)
	}
	c.hello = reply.Hello
	// Where their clock reads what ours cannot have read meanwhile, we are in another time namespace;
	// then nothing is taken for later than it is.
	c.offset = 0
	if reply.NowMs < c.askedAt || reply.NowMs > nowMs() {
		c.offset = c.askedAt - 1 - reply.NowMs
	}
	c.up, c.retry = true, 0
	for _, lease := range c.leases {
		c.adopt(lease)
	}
	for id, r := range c.requests {
		if !r.sent {
			c.send(id)
		}
	}
	return nil
}

// ---- Leases ----

func (c *Client) granted(ctx context.Context, members map[string]any, grant *message) *Lease {
	lease := &Lease{
		client: c, key: members["key"].(string), token: grant.Lease, fence: grant.Status.Fence,
		ttl: time.Duration(grant.TTLMs) * time.Millisecond, binding: map[string]any{},
	}
	for _, name := range []string{"bind", "pid", "on_disconnect"} {
		if value, ok := members[name]; ok {
			lease.binding[name] = value
		}
	}
	inner, cancel := withCancelCause(ctx)
	lease.ctx, lease.cancel = &leaseContext{Context: inner, lease: lease}, cancel
	lease.deadline.Store(grant.DeadlineOfMs)
	c.confirm(lease, grant)
	c.leases[lease.token] = lease
	return lease
}

func (c *Client) confirm(lease *Lease, grant *message) {
	lease.until.Store(grant.ValidUntilMs + c.offset)
	lease.margin = grant.TTLMs * c.hello.RevokeMarginMs / max(1, c.hello.LockTTLMs)
	lease.confirmed, lease.adoptAt = true, 0
}

func (c *Client) adopt(lease *Lease) {
	lease.adoptAt = 0
	members := map[string]any{"op": "adopt", "key": lease.key, "lease": lease.token}
	for name, value := range lease.binding {
		members[name] = value
	}
	c.ask(members, func(reply *message) { c.adopted(lease, reply) }, 0, false)
}

func (c *Client) adopted(lease *Lease, reply *message) {
	switch {
	case c.leases[lease.token] != lease:
		c.giveBack(reply)
	case reply.OK:
		c.confirm(lease, reply)
		if lease.released.Load() {
			c.sendRelease(lease, func(error) {}, false)
		}
	case is(reply, ErrLostActorLock):
		c.lose(lease, "lost", reply)
	case is(reply, ErrNotPermitted, ErrBadRequest, ErrUnknownOp):
		c.lose(lease, "disconnected", reply)
	case !is(reply, ErrSidecarUnavailable):
		lease.adoptAt = nowMs() + adoptRetryMs
	}
}

func (c *Client) giveBack(reply *message) {
	if reply.OK {
		c.ask(map[string]any{"op": "release", "lease": reply.Lease}, func(*message) {}, 0, false)
	}
}

func (c *Client) onEvent(event *message) {
	lease := c.leases[event.Lease]
	switch {
	case lease == nil:
	case event.Event == "renewed":
		lease.until.Store(event.ValidUntilMs + c.offset)
	case event.Event == "revoked" && lease.released.Load():
		lease.crossed = event
	case event.Event == "revoked":
		c.lose(lease, event.Reason, event)
	}
}

func (c *Client) lose(lease *Lease, reason string, event *message) {
	delete(c.leases, lease.token)
	if lease.released.Load() || lease.lost.Load() != nil {
		return
	}
	lost := &LostError{Reason: reason, Message: event.Message}
	if event.SafeMs != nil {
		lost.Safe = time.Duration(*event.SafeMs) * time.Millisecond
	} else if reason != "lost" {
		lost.Safe = lease.Remaining()
	}
	lease.lost.Store(lost)
	lease.ctx.isLost.Store(lease.ctx.Context.Err() == nil)
	lease.cancel(lost)
}

// Nobody has confirmed it in time.
func (c *Client) expire(lease *Lease) {
	if lease.confirmed {
		c.lose(lease, "silent", &message{Message: "the sidecar confirmed nothing in time"})
	} else {
		c.lose(lease, "disconnected",
			&message{Message: "the sidecar went away and none took over in time"})
	}
}

// ---- Time ----

// A sidecar that is there revokes at the margin itself, so that is waited for. Without one, the holder
// is told when it would have been.
func giveUpAt(lease *Lease) int64 {
	switch {
	case lease.released.Load():
		return lease.until.Load()
	case lease.confirmed:
		return lease.until.Load() - lease.margin/2
	}
	return lease.until.Load() - lease.margin
}

func (c *Client) dueAt(r *request) int64 {
	switch {
	case r.sent:
		return r.expires
	case c.conn == nil:
		return r.until
	}
	return never
}

func (c *Client) next() int64 {
	at := int64(never)
	for _, lease := range c.leases {
		at = min(at, giveUpAt(lease))
		if c.up && lease.adoptAt != 0 {
			at = min(at, lease.adoptAt)
		}
	}
	for _, r := range c.requests {
		at = min(at, c.dueAt(r))
	}
	if c.conn == nil && (len(c.leases) > 0 || len(c.requests) > 0) {
		at = min(at, c.retryAt)
	} else if c.conn != nil && !c.up {
		at = min(at, c.askedAt+c.Timeout.Milliseconds())
	}
	return at
}

func (c *Client) tick() {
	now := nowMs()
	for _, lease := range c.leases {
		if now >= giveUpAt(lease) {
			c.expire(lease)
		} else if c.up && lease.adoptAt != 0 && now >= lease.adoptAt {
			c.adopt(lease)
		}
	}
	c.connectIfWanted()
	for id, r := range c.requests {
		if now >= c.dueAt(r) {
			c.timeOut(id, r)
		}
	}
	if c.conn != nil && !c.up && now >= c.askedAt+c.Timeout.Milliseconds() {
		c.refused(errors.New("no answer in time"))
	}
}

// What is next may have changed.
func (c *Client) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *Client) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.kick:
		case <-timer.C:
		}
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return
		}
		c.tick()
		at := c.next()
		c.mu.Unlock()
		if !timer.Stop() {
			select {
			case <-timer.C:
			default:
			}
		}
		timer.Reset(time.Duration(min(max(0, at-nowMs()), 60_000)) * time.Millisecond)
	}
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func max(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}
