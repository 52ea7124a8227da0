package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/fakenet"
)

// BenchmarkGateway measures the whole way of a message: a gateway process of its
// own takes mail over STARTTLS, decides with all its parts (scan, records,
// posture), signs with RSA-2048 and Ed25519, seals, fsyncs, answers, and delivers
// over verified TLS to sinks in this process. Per message it reports the rate
// accepted and delivered, the CPU time of the gateway process, the final reply's
// p50 and p99, and the gateway's peak resident memory. Load and sinks share the
// machine with it.
func BenchmarkGateway(b *testing.B) {
	for _, size := range []int{10, 50} {
		for _, conns := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%dKB/%dconns", size, conns), func(b *testing.B) { benchGateway(b, size<<10, conns) })
		}
	}
}

// serveEnv makes the test binary a gateway: its value is the configuration.
// profileEnv names a file for the CPU profile of that gateway.
const (
	serveEnv   = "GATEWAY_BENCH_SERVE"
	profileEnv = "GATEWAY_BENCH_PROFILE"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(serveEnv); path != "" {
		os.Exit(serveProfiled(path))
	}
	os.Exit(m.Run())
}

func serveProfiled(config string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if path := os.Getenv(profileEnv); path != "" {
		f, err := os.Create(path)
		if err != nil {
			panic(err)
		}
		defer f.Close()
		pprof.StartCPUProfile(f)
		defer pprof.StopCPUProfile()
	}
	return run(ctx, []string{"serve", "--log-level", "error", "-c", config}, stdio{os.Stdin, os.Stdout, os.Stderr})
}

func benchGateway(b *testing.B, size, conns int) {
	const port, domains = 20025, 50
	net, err := fakenet.Start(b.Context(), fakenet.Options{SMTPPort: port})
	if err != nil {
		b.Fatal(err)
	}
	defer net.Close()
	for i := range domains {
		net.Add(fakenet.Domain{Name: fmt.Sprintf("d%d.example", i), Discard: true})
	}
	proc := startProcess(b, net, port)
	tool := fakenet.Tool{Addr: proc.addr, TLS: &tls.Config{InsecureSkipVerify: true}}
	body := benchBody(size)

	took := make([]time.Duration, b.N)
	var next sync.Mutex
	n := 0
	take := func() int {
		next.Lock()
		defer next.Unlock()
		n++
		return n - 1
	}
	before := proc.cpu(b)
	b.ResetTimer()
	started := time.Now()
	var wg sync.WaitGroup
	for range conns {
		wg.Go(func() {
			line, err := tool.Dial(b.Context())
			if err != nil {
				b.Error(err)
				return
			}
			defer line.Close()
			for i := take(); i < b.N; i = take() {
				to := fmt.Sprintf("pat%d@d%d.example", i, i%domains)
				sent := time.Now()
				answer, err := line.Send("office@valleyclinic.example", []string{to}, benchMail(body, to, i))
				if err != nil || !strings.HasPrefix(answer.Final(0), "250") {
					b.Errorf("message %d: %v %v", i, answer, err)
					return
				}
				took[i] = time.Since(sent)
			}
		})
	}
	wg.Wait()
	accepted := time.Since(started)
	for arrived := 0; arrived < b.N && !b.Failed(); {
		arrived = 0
		for _, h := range net.Hosts() {
			arrived += h.Count()
		}
		time.Sleep(5 * time.Millisecond)
	}
	delivered := time.Since(started)
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(b.N)/accepted.Seconds(), "accepted/s")
	b.ReportMetric(float64(b.N)/delivered.Seconds(), "delivered/s")
	b.ReportMetric(float64((proc.cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/msg")
	b.ReportMetric(float64(took[b.N/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(proc.rss(b), "peak-RSS-MB")
	b.ReportMetric(0, "ns/op")
}

// process is a gateway in a process of its own.
type process struct {
	addr string
	pid  int
}

const benchPolicy = `version: 1
organization: {name: Valley Clinic, kind: covered_entity, domains: [valleyclinic.example], postal_address: "12 Main St, Springfield, IL 62701"}
senders:
  - {name: ehr, networks: [127.0.0.0/8], from: ["*@valleyclinic.example"], partner: self, class: treatment_ops, audience: patients, remuneration: none}
`

const benchConfig = `
hostname: gateway.valleyclinic.example
data: data
policy: policy.yaml
keys: {root: {file: root.key}}
listen: [{address: %q, tls: starttls, auth: optional}]
certificate: {cert_file: tls.crt, key_file: tls.key}
delivery: {resolver: [%q], port: %d, extra_roots_file: roots.pem}
`

func startProcess(b *testing.B, net *fakenet.Net, port int) process {
	b.Helper()
	dir := b.TempDir()
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	must(gateway.Init(dir, "gateway.valleyclinic.example", time.Now()))
	shipped, err := os.ReadFile(filepath.Join(dir, "policy.yaml"))
	must(err)
	rules := append([]byte(benchPolicy), shipped[bytes.Index(shipped, []byte("\ndetection:")):]...)
	addr, err := freePort()
	must(err)
	config := filepath.Join(dir, "gateway.yaml")
	for name, data := range map[string][]byte{"policy.yaml": rules, "roots.pem": net.RootsPEM(),
		"gateway.yaml": fmt.Appendf(nil, benchConfig, addr, net.Resolver(), port)} {
		must(os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	if status := run(b.Context(), []string{"dkim", "new", "valleyclinic.example", "-c", config}, stdio{nil, new(bytes.Buffer), os.Stderr}); status != exitDone {
		b.Fatal("no DKIM keys")
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), serveEnv+"="+config)
	banner := new(banner)
	banner.up = make(chan struct{})
	child.Stderr = banner
	must(child.Start())
	b.Cleanup(func() {
		child.Process.Signal(os.Interrupt)
		child.Wait()
	})
	select {
	case <-banner.up:
	case <-time.After(20 * time.Second):
		b.Fatal("the gateway does not start")
	}
	return process{addr, child.Process.Pid}
}

// banner closes up at the first line.
type banner struct {
	once sync.Once
	up   chan struct{}
}

func (w *banner) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.up) })
	return len(p), nil
}

// cpu is the processor time the process has used (proc(5), stat).
func (p process) cpu(b *testing.B) time.Duration {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		b.Skip("no /proc here")
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const tick = 10 * time.Millisecond // USER_HZ
	return time.Duration(user+system) * tick
}

// rss is the most memory the process has held, in MB.
func (p process) rss(b *testing.B) float64 {
	b.Helper()
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return float64(kb) / 1024
		}
	}
	return 0
}

// benchBody is an HTML letter of about size bytes about somebody's treatment.
func benchBody(size int) []byte {
	var b bytes.Buffer
	b.WriteString("<html><body style=\"font-family:Georgia\"><h1>Your visit summary</h1>\r\n")
	words := strings.Fields("your blood pressure was taken twice during the visit and the nurse wrote both values down please bring the " +
		"list of your medicines next time the practice is open on weekdays from eight to five parking is behind the building we look " +
		"forward to seeing you again the walking group meets on Tuesday mornings near the lake and everybody is welcome to join")
	for i := 0; b.Len() < size; i++ {
		fmt.Fprintf(&b, "<p class=\"t%d\">", i%7)
		for j := range 40 {
			b.WriteString(words[(i*13+j*7)%len(words)])
			b.WriteByte(' ')
		}
		b.WriteString("</p>\r\n")
	}
	b.WriteString("</body></html>\r\n")
	return b.Bytes()
}

func benchMail(body []byte, to string, n int) []byte {
	head := fmt.Sprintf("From: Valley Clinic <office@valleyclinic.example>\r\nTo: <%s>\r\nSubject: News from the practice\r\n"+
		"Date: Mon, 02 Mar 2026 09:00:00 -0500\r\nMessage-ID: <%d@valleyclinic.example>\r\nMIME-Version: 1.0\r\n"+
		"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n", to, n)
	return append([]byte(head), body...)
}
