package gateway

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A Verb carries out one command line against an open gateway and returns its
// exit status. cmd/gateway hands it over, so that a command does the same on a
// stopped gateway and, through the admin socket, on a running one.
type Verb func(ctx context.Context, g *Gateway, args []string, in io.Reader, out, errs io.Writer) int

// Frames of an answer: one byte for the stream, four for the length, the bytes.
const (
	frameOut  = 'o'
	frameErr  = 'e'
	frameExit = 'x' // the exit status in decimal; the last frame
)

// ErrNotRunning is returned by [RunRemote] when no gateway listens on the socket.
var ErrNotRunning = errors.New("no gateway is running on the admin socket")

// adminListener opens the admin socket. Whoever may connect commands the
// gateway, so only its own user may. A socket left behind by a killed process
// is replaced; one that answers is not.
func adminListener(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("another gateway already answers on %s", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177)
	defer syscall.Umask(old)
	return net.Listen("unix", path)
}

// serveAdmin answers commands until ctx ends.
func (g *Gateway) serveAdmin(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /run", func(w http.ResponseWriter, r *http.Request) { g.runVerb(w, r) })
	srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: quiet}
	return serveUntil(ctx, srv, g.admin, time.Second)
}

func (g *Gateway) runVerb(w http.ResponseWriter, r *http.Request) {
	var args []string
	if err := json.Unmarshal([]byte(r.Header.Get("Gateway-Args")), &args); err != nil {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	http.NewResponseController(w).EnableFullDuplex()
	f := &framer{w: w}
	status := g.verb(r.Context(), g, args, r.Body, f.stream(frameOut), f.stream(frameErr))
	f.stream(frameExit).Write([]byte(strconv.Itoa(status)))
}

// framer interleaves streams on one connection.
type framer struct {
	mu sync.Mutex
	w  http.ResponseWriter
}

func (f *framer) stream(kind byte) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b)))
		if _, err := f.w.Write(head); err != nil {
			return 0, err
		}
		n, err := f.w.Write(b)
		http.NewResponseController(f.w).Flush()
		return n, err
	})
}

type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(b []byte) (int, error) { return w(b) }

// RunRemote has the gateway behind the admin socket carry out a command line
// and returns its exit status. [ErrNotRunning] means that nothing listens there.
func RunRemote(ctx context.Context, socket string, args []string, in io.Reader, out, errs io.Writer) (int, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", socket)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
				return nil, ErrNotRunning
			}
			return c, err
		},
	}}
	defer client.CloseIdleConnections()
	head, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "http://gateway/run", in)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Gateway-Args", string(head))
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(err, ErrNotRunning) {
			return 0, ErrNotRunning
		}
		return 0, fmt.Errorf("admin socket: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("admin socket: the gateway answered %s", resp.Status)
	}
	return readFrames(resp.Body, out, errs)
}

func readFrames(r io.Reader, out, errs io.Writer) (int, error) {
	for {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return 0, fmt.Errorf("admin socket: the gateway broke off: %w", err)
		}
		body := io.LimitReader(r, int64(binary.BigEndian.Uint32(head[1:])))
		switch head[0] {
		case frameOut:
			if _, err := io.Copy(out, body); err != nil {
				return 0, err
			}
		case frameErr:
			if _, err := io.Copy(errs, body); err != nil {
				return 0, err
			}
		default:
			text, err := io.ReadAll(body)
			if err != nil {
				return 0, err
			}
			return strconv.Atoi(string(text))
		}
	}
}
