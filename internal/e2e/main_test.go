//go:build e2e

// Package e2e runs the built gateway against real peers: Postfix, Exim and
// OpenSMTPD as recipients, Unbound over signed NSD zones as resolver, swaks and
// Python's smtplib as marketing tools, dkimpy as verifier, tcpdump as witness.
//
// Everything happens in namespaces of its own. The test binary starts itself
// again with a private network (loopback only, so ports 25, 53 and 443 are
// free), private mounts (so /etc and /var can be written) and private
// processes (so every daemon ends with it). It needs root and what peers.sh
// installs, and fails, never skips, without them.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inside is set for the process that runs in the namespaces.
const inside = "PHIGATE_E2E_INSIDE"

// base is a tmpfs for everything the peers and the gateway write.
const base = "/srv"

var bed *testbed // the running peers; set once by TestMain

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
	code, err := runInside(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// again runs this test binary in new namespaces and returns its exit status.
func again() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: needs root for namespaces, run make e2e:", err)
		return 1
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; _ = cmd.Process.Kill() }()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

func runInside(m *testing.M) (int, error) {
	if err := furnish(); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := startBed(ctx)
	if err != nil {
		return 1, err
	}
	bed = b
	code := m.Run()
	if code != 0 {
		b.dumpLogs(os.Stderr)
	}
	return code, nil
}

// furnish makes the private world: own mounts over the machine's folders, the
// unpacked peers in /usr, a resolver, users for the daemons, loopback up.
func furnish() error {
	peers := os.Getenv("E2E_PEERS")
	if peers == "" {
		return fmt.Errorf("E2E_PEERS is not set: run make e2e, which installs the peers")
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	steps := []struct{ target, kind, options string }{
		{base, "tmpfs", "mode=755"},
		{"/etc", "overlay", upper("/etc")},
		{"/var", "overlay", upper("/var")},
		{"/usr", "overlay", "lowerdir=/usr:" + peers + "/usr"},
		{"/run", "tmpfs", "mode=755"},
		{"/proc", "proc", ""},
	}
	for _, s := range steps {
		for dir := range strings.SplitSeq(s.options, ",") {
			if _, dir, _ := strings.Cut(dir, "dir="+base); dir != "" {
				if err := os.MkdirAll(base+dir, 0o755); err != nil {
					return err
				}
			}
		}
		if err := syscall.Mount(s.kind, s.target, s.kind, 0, s.options); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	if err := os.WriteFile("/etc/resolv.conf", []byte("nameserver 127.0.0.1\noptions trust-ad edns0\n"), 0o644); err != nil {
		return err
	}
	if err := addUsers("Debian-exim", "opensmtpd", "opensmtpq", "keeper"); err != nil {
		return err
	}
	for _, dir := range []string{"/var/lib/opensmtpd/empty", "/run/lock"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return command("ip", "link", "set", "lo", "up")
}

func upper(dir string) string {
	return fmt.Sprintf("lowerdir=%s,upperdir=%s/.upper%s,workdir=%s/.work%s", dir, base, dir, base, dir)
}

// keeperID owns all mailboxes.
const keeperID = 7003

// addUsers gives the unpacked daemons the accounts their packages would make.
func addUsers(names ...string) error {
	var passwd, group strings.Builder
	for i, name := range names {
		id := 7000 + i
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n", name, id, id)
		fmt.Fprintf(&group, "%s:x:%d:\n", name, id)
	}
	if err := appendTo("/etc/passwd", passwd.String()); err != nil {
		return err
	}
	return appendTo("/etc/group", group.String())
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// command runs a program to its end; its output is in the error.
func command(name string, args ...string) error {
	_, err := output(name, args...)
	return err
}

func output(name string, args ...string) (string, error) {
	b, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return string(b), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, b)
	}
	return string(b), nil
}

// write puts a file under base and returns its path.
func write(name, text string) (string, error) {
	path := filepath.Join(base, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, []byte(text), 0o644)
}
