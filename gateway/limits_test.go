package gateway

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipe is a client's end and our wrapped end of one connection.
func pipe(t *testing.T) (client net.Conn, c *conn, cs *clients) {
	t.Helper()
	cs = &clients{limit: 10, turned: func() {}, open: map[*conn]struct{}{}}
	client, server := net.Pipe()
	c = &conn{Conn: server, clients: cs, quota: strangerQuota}
	cs.add(c)
	t.Cleanup(func() { client.Close(); c.Close() })
	return client, c, cs
}

func TestBrokenReadStaysBroken(t *testing.T) {
	client, c, _ := pipe(t)
	c.SetReadDeadline(longAgo)
	if _, err := c.Read(make([]byte, 10)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	c.SetReadDeadline(time.Time{})
	go client.Write([]byte("RCPT TO:<x>\r\n")) // the rest of a body, as go-smtp would read it
	if n, err := c.Read(make([]byte, 10)); n != 0 || err == nil {
		t.Errorf("read %d bytes after a failed read, err %v", n, err)
	}
}

func TestStrangerQuota(t *testing.T) {
	for _, known := range []bool{false, true} {
		client, c, _ := pipe(t)
		go func() {
			client.Write(make([]byte, 2*strangerQuota))
			client.Close()
		}()
		if known {
			c.welcome()
		}
		n, err := io.Copy(io.Discard, c)
		if known && (n != 2*strangerQuota || err != nil) {
			t.Errorf("known client: %d bytes, %v", n, err)
		}
		if !known && (n != strangerQuota || err == nil) {
			t.Errorf("stranger: %d bytes, %v", n, err)
		}
	}
}

// A client that keeps sending is waited for, one that stops is not, and none
// may go on for ever.
func TestPausesInAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = time.Minute
		for name, c := range map[string]struct {
			every time.Duration
			reads int
		}{"steady": {pause / 2, 2*messageTime - 1}, "stalled": {2 * pause, 0}} {
			client, door, _ := pipe(t)
			door.welcome()
			door.work(pause)
			over := make(chan struct{})
			go func() {
				for {
					select {
					case <-over:
						return
					case <-time.After(c.every):
					}
					client.Write([]byte("x"))
				}
			}()
			reads := 0
			for {
				if _, err := door.Read(make([]byte, 10)); err != nil {
					break
				}
				reads++
			}
			if reads < c.reads || reads > c.reads+1 {
				t.Errorf("%s: %d reads, want %d", name, reads, c.reads)
			}
			client.Close()
			close(over)
		}
	})
}

func TestDrainEndsIdleConversationsOnly(t *testing.T) {
	_, idle, cs := pipe(t)
	client, server := net.Pipe()
	busy := &conn{Conn: server, clients: cs, quota: -1}
	cs.add(busy)
	defer client.Close()
	busy.work(time.Minute)
	cs.drain()
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("idle: %v", err)
	}
	busy.SetReadDeadline(time.Now().Add(time.Minute))
	go client.Write([]byte("x"))
	if _, err := busy.Read(make([]byte, 1)); err != nil {
		t.Errorf("in the middle of a message: %v", err)
	}
	busy.rest()
	busy.SetReadDeadline(time.Now().Add(time.Minute)) // go-smtp waits for the next command
	if _, err := busy.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the message: %v", err)
	}
	if cs.add(&conn{}) != full {
		t.Error("a new connection was taken while draining")
	}
}

func TestOneConnectionTooManyIsTold(t *testing.T) {
	n, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	turned := 0
	cs := &clients{limit: 2, perNetwork: 1, turned: func() { turned++ }, open: map[*conn]struct{}{}}
	l := &listener{Listener: n, clients: cs, busy: "421 4.3.2 busy\r\n", crowd: "421 4.7.0 crowd\r\n"}
	defer l.Close()
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := dial()
	defer first.Close()
	taken := <-accepted
	second := dial()
	defer second.Close()
	if line, _ := bufio.NewReader(second).ReadString('\n'); !strings.HasPrefix(line, "421 4.7.0") {
		t.Errorf("from a network that has one: %q", line)
	}
	elsewhere := &conn{network: netip.MustParsePrefix("192.0.2.1/32")}
	cs.add(elsewhere)
	third := dial()
	defer third.Close()
	if line, _ := bufio.NewReader(third).ReadString('\n'); !strings.HasPrefix(line, "421 4.3.2") {
		t.Errorf("when there are too many: %q", line)
	}
	cs.remove(elsewhere)
	cs.remove(elsewhere)
	if turned != 2 {
		t.Errorf("counted %d", turned)
	}
	taken.Close()
	fourth := dial()
	defer fourth.Close()
	(<-accepted).Close()
	if len(cs.from) != 0 {
		t.Errorf("networks are still counted: %v", cs.from)
	}
}

func TestFailuresDoubleAndAreForgotten(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := newFailures(func() time.Time { return now })
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 16 * time.Second} {
		if got := f.pause(a); got != want {
			t.Errorf("failure %d: %v, want %v", i+1, got, want)
		}
	}
	if got := f.pause(b); got != time.Second {
		t.Errorf("another network: %v", got)
	}
	if got := f.pause(netip.MustParseAddr("2001:db8::2")); got != 2*time.Second {
		t.Errorf("another address of one /64: %v", got)
	}
	now = now.Add(failureMemory + time.Second)
	if got := f.pause(a); got != time.Second {
		t.Errorf("after a while: %v", got)
	}
}

func TestMemoryIsBoundedAndGivenBack(t *testing.T) {
	m := newMemory(10 * memoryPerByte)
	if !m.take(6) || m.take(5) || !m.take(4) {
		t.Fatal("the bound does not hold")
	}
	m.give(6)
	if !m.take(6) {
		t.Error("what was given back is gone")
	}
}

func TestLoginMechanism(t *testing.T) {
	for _, initial := range []bool{false, true} {
		var got [2]string
		l := &loginServer{check: func(name, password string) error { got = [2]string{name, password}; return nil }}
		challenge, done, err := l.Next(nil)
		if initial {
			l = &loginServer{check: l.check}
			challenge, done, err = l.Next([]byte("mailer-a"))
		} else if string(challenge) == "Username:" {
			challenge, done, err = l.Next([]byte("mailer-a"))
		}
		if string(challenge) != "Password:" || done || err != nil {
			t.Fatalf("initial response %v: %q %v %v", initial, challenge, done, err)
		}
		if _, done, err = l.Next([]byte("secret")); !done || err != nil || got != [2]string{"mailer-a", "secret"} {
			t.Errorf("initial response %v: done %v, err %v, checked %v", initial, done, err, got)
		}
		if _, _, err := l.Next([]byte("more")); err == nil {
			t.Error("a fourth step was taken")
		}
	}
}
