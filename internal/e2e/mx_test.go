//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

// startPostfix runs one Postfix with a listener for each kind of TLS.
func (b *testbed) startPostfix(ctx context.Context) error {
	conf := base + "/postfix"
	for _, dir := range []string{conf, base + "/pfqueue", base + "/pfdata"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := command("chown", "postfix", base+"/pfdata"); err != nil {
		return err
	}
	expired, err := b.pki.issue("expired", kind{expired: true}, mxOf(postfixExpired)...)
	if err != nil {
		return err
	}
	weak, err := b.pki.issue("weak", kind{weak: true}, mxOf(postfixWeak)...)
	if err != nil {
		return err
	}
	log, err := b.log("postfix")
	if err != nil {
		return err
	}
	log.Close()
	main := fmt.Sprintf(`compatibility_level = 3.6
queue_directory = %[1]s/pfqueue
data_directory = %[1]s/pfdata
maillog_file = %[1]s/log/postfix
maillog_file_prefixes = %[1]s
myhostname = postfix.test
mydestination =
local_recipient_maps =
alias_maps =
inet_protocols = ipv4
virtual_mailbox_domains = %[2]s
virtual_mailbox_base = %[1]s/mail
virtual_mailbox_maps = texthash:%[1]s/postfix/boxes
virtual_uid_maps = static:%[3]d
virtual_gid_maps = static:%[3]d
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_cert_file = %[1]s/pki/postfix.crt
smtpd_tls_key_file = %[1]s/pki/postfix.key
smtpd_forbid_bare_newline = reject
`, base, strings.Join(domainsAt(postfixGood, postfixWeak, postfixExpired), ", "), keeperID)
	master := fmt.Sprintf(`%s:25 inet n - n - - smtpd
%s:25 inet n - n - - smtpd
  -o smtpd_tls_cert_file=%s
  -o smtpd_tls_key_file=%s
%s:25 inet n - n - - smtpd
  -o smtpd_tls_cert_file=%s
  -o smtpd_tls_key_file=%s
  -o smtpd_tls_protocols=TLSv1.1
  -o tls_medium_cipherlist=ALL:@SECLEVEL=0
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
`, postfixGood, postfixExpired, expired.cert, expired.key, postfixWeak, weak.cert, weak.key)
	var boxes strings.Builder
	for _, d := range domainsAt(postfixGood, postfixWeak, postfixExpired) {
		fmt.Fprintf(&boxes, "@%[1]s %[1]s/\n", d)
	}
	for name, text := range map[string]string{"main.cf": main, "master.cf": master, "boxes": boxes.String()} {
		if _, err := write("postfix/"+name, text); err != nil {
			return err
		}
	}
	if err := b.daemon(ctx, "postfix.start", "postfix", "-c", conf, "start-fg"); err != nil {
		return err
	}
	return allListen(ctx, postfixGood, postfixExpired, postfixWeak)
}

func allListen(ctx context.Context, addresses ...string) error {
	for _, a := range addresses {
		if err := listening(ctx, a+":25"); err != nil {
			return err
		}
	}
	return nil
}

// startExim runs one Exim whose certificate depends on the address called.
func (b *testbed) startExim(ctx context.Context) error {
	good, err := b.pki.issue("exim", kind{}, mxOf(eximGood)...)
	if err != nil {
		return err
	}
	self, err := b.pki.issue("self", kind{self: true}, mxOf(eximSelf)...)
	if err != nil {
		return err
	}
	spool := base + "/exim"
	if err := os.MkdirAll(spool, 0o755); err != nil {
		return err
	}
	if err := command("chown", "-R", "Debian-exim:", spool, good.key, self.key); err != nil {
		return err
	}
	conf := fmt.Sprintf(`primary_hostname = exim.test
spool_directory = %[1]s/exim
log_file_path = %[1]s/exim/%%slog
pid_file_path = %[1]s/exim/pid
domainlist local_domains = %[2]s
local_interfaces = %[3]s : %[4]s
daemon_smtp_ports = 25
tls_advertise_hosts = *
tls_certificate = ${if eq{$received_ip_address}{%[4]s}{%[6]s}{%[5]s}}
tls_privatekey = ${if eq{$received_ip_address}{%[4]s}{%[8]s}{%[7]s}}
acl_smtp_rcpt = rcpt
never_users =
keep_environment =
begin acl
rcpt:
  accept domains = +local_domains
  deny message = relay not permitted
begin routers
keep:
  driver = accept
  domains = +local_domains
  transport = maildir
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = %[1]s/mail/${lookup{$domain}lsearch{%[1]s/eximdomains}}
  create_directory
  user = keeper
  group = keeper
`, base, strings.Join(domainsAt(eximGood, eximSelf), " : "), eximGood, eximSelf, good.cert, self.cert, good.key, self.key)
	// Where the build looks by itself: with -C it would not keep its rights.
	if err := os.MkdirAll("/etc/exim4", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/exim4/exim4.conf", []byte(conf), 0o644); err != nil {
		return err
	}
	// Exim refuses a path that a client can shape: the domain comes from a file.
	var known strings.Builder
	for _, d := range domainsAt(eximGood, eximSelf) {
		fmt.Fprintf(&known, "%s: %s\n", d, d)
	}
	if _, err := write("eximdomains", known.String()); err != nil {
		return err
	}
	if err := b.daemon(ctx, "exim", "exim4", "-bdf", "-q1m"); err != nil {
		return err
	}
	b.logs = append(b.logs, spool+"/mainlog", spool+"/paniclog")
	return allListen(ctx, eximGood, eximSelf)
}

// startOpenSMTPD runs one OpenSMTPD: a listener without TLS, and one that
// offers STARTTLS and fails in the handshake. The failure is real: Debian 12's
// build loses its keys under OpenSSL 3 (OpenSMTPD issue 1239).
func (b *testbed) startOpenSMTPD(ctx context.Context) error {
	cert, err := b.pki.issue("open", kind{}, mxOf(openBroken)...)
	if err != nil {
		return err
	}
	path, err := write("smtpd.conf", fmt.Sprintf(`pki open cert "%[1]s"
pki open key "%[2]s"
table boxes { "@" = "keeper" }
listen on %[3]s port 25 hostname mx.clear.open.test
listen on %[4]s port 25 tls pki open hostname mx.broken.open.test
action "keep" maildir "%[5]s/mail/%%{dest.domain}" virtual <boxes>
match from any for domain { "%[6]s" } action "keep"
`, cert.cert, cert.key, openClear, openBroken, base, strings.Join(domainsAt(openClear, openBroken), `", "`)))
	if err != nil {
		return err
	}
	if err := b.daemon(ctx, "opensmtpd", "smtpd", "-d", "-f", path); err != nil {
		return err
	}
	return allListen(ctx, openClear, openBroken)
}

// startPolicyHost serves the MTA-STS policy of sts.open.test.
func (b *testbed) startPolicyHost(ctx context.Context) error {
	cert, err := b.pki.issue("policy", kind{}, "mta-sts.sts.open.test")
	if err != nil {
		return err
	}
	ln, err := tls.Listen("tcp", net.JoinHostPort(policyHost, "443"), &tls.Config{Certificates: []tls.Certificate{cert.tls}})
	if err != nil {
		return err
	}
	policy := "version: STSv1\r\nmode: enforce\r\nmx: mx.sts.open.test\r\nmax_age: 86400\r\n"
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/mta-sts.txt", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, policy)
	})
	srv := &http.Server{Handler: mux}
	go func() { _ = srv.Serve(ln) }()
	context.AfterFunc(ctx, func() { srv.Close() })
	return nil
}
