package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"time"

	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
)

// ended is what must hold after every story.
func (s *story) ended() {
	for _, c := range s.held {
		c.Close()
	}
	if s.site != nil {
		s.logVerifies()
		s.oneEndEach()
		s.publicPartsAreSilent()
	}
	if err := s.shutdown(); err != nil {
		s.t.Errorf("shutdown: %v", err)
	}
	s.noGoroutineLeft()
	s.dataIsSealed()
	s.nothingIsSaid()
	s.mailboxes()
	if err := s.net.Close(); err != nil {
		s.t.Errorf("fakenet: %v", err)
	}
}

func (s *story) logVerifies() {
	r, err := s.site.Audit().Verify(s.ctx)
	if err != nil || !r.OK() {
		s.t.Errorf("the audit log does not verify: %v %v", err, r.Problems)
	}
}

// oneEndEach proves that what was accepted is delivered, offered, bounced or
// still here, and only one of these (promises 1 and 6).
func (s *story) oneEndEach() {
	ends := map[submitted]map[audit.Kind]int{}
	for e, err := range s.site.Audit().List(s.ctx, audit.Reader{Who: "story"}, audit.Filter{}) {
		if err != nil {
			s.t.Errorf("audit list: %v", err)
			return
		}
		key := submitted{string(e.ID), e.Recipient.Clear()}
		if ends[key] == nil {
			ends[key] = map[audit.Kind]int{}
		}
		if e.Codes["state"] == "" && e.Codes["by"] == "" { // not a step on the portal, nor what was told later
			ends[key][e.Kind]++
		}
	}
	for _, m := range s.submitted {
		s.oneEnd(m, ends[m])
	}
}

func (s *story) oneEnd(m submitted, rows map[audit.Kind]int) {
	if len(rows) == 0 {
		s.t.Errorf("%s was accepted for %s, and the log knows nothing of it", m.id, m.address)
		return
	}
	if rows[audit.Pickup] > 0 && s.lastLink(m.address) == "" {
		rows[audit.Bounced] = 0 // it was the notice that bounced
	}
	n := 0
	for _, kind := range []audit.Kind{audit.Delivered, audit.Pickup, audit.Bounced, audit.Rejected} {
		n += min(rows[kind], 1)
		if kind == audit.Delivered && rows[kind] > 1 {
			s.t.Errorf("%s to %s is on record as delivered %d times", m.id, m.address, rows[kind])
		}
	}
	waits := s.waits(m)
	if n == 0 && !waits && rows[audit.Cancelled] == 0 {
		s.t.Errorf("%s to %s is lost: %v", m.id, m.address, rows)
	}
	held := rows[audit.Rejected] > 0 // for a tool that must not see a refusal
	if n > 1 || n == 1 && waits && !held {
		s.t.Errorf("%s to %s has more than one end: %v, waits %v", m.id, m.address, rows, waits)
	}
}

func (s *story) waits(m submitted) bool {
	rows, err := s.site.Queue().Show(s.ctx, m.id)
	if err != nil && !strings.Contains(err.Error(), store.ErrNotFound.Error()) {
		s.t.Errorf("queue show: %v", err)
	}
	for _, r := range rows {
		if r.Recipient.Clear() == m.address {
			return true
		}
	}
	return false
}

// publicPartsAreSilent reads what is shown to those who may see no patient.
func (s *story) publicPartsAreSilent() {
	resp, err := http.Get("http://" + s.config.Metrics.Address + "/metrics")
	if err != nil {
		s.t.Errorf("metrics: %v", err)
		return
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	text, _ := io.ReadAll(resp.Body)
	s.silent("metrics", text, phiWord, plainWord, addressWord)
	for _, format := range []string{"csv", "jsonl", "cef"} {
		var b bytes.Buffer
		_, err := s.site.Audit().Export(s.ctx, &b, audit.Reader{Who: "story"}, audit.Export{Format: format})
		if err != nil {
			s.t.Errorf("export %s: %v", format, err)
		}
		s.silent("audit export "+format, b.Bytes(), phiWord, plainWord, addressWord)
	}
}

// silent reports words that stand where they must not, in any case of letters.
func (s *story) silent(where string, text []byte, words ...string) {
	text = bytes.ToLower(text)
	for _, w := range words {
		if i := bytes.Index(text, []byte(w)); i >= 0 {
			s.t.Errorf("%s holds %q: %q", where, w, text[max(0, i-80):min(len(text), i+80)])
		}
	}
}

// noGoroutineLeft waits for the last ones to return and names those that do not.
func (s *story) noGoroutineLeft() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var left string
	for range 400 {
		if left = s.goroutines(); left == "" {
			return
		}
		<-tick.C
	}
	s.t.Errorf("goroutines are left:\n%s", left)
}

func (s *story) goroutines() string {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	var ours []string
	for stack := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", "story", s.name)) {
			ours = append(ours, stack)
		}
	}
	return strings.Join(ours, "\n\n")
}

// dataIsSealed greps every file of the data folder (promise 4).
func (s *story) dataIsSealed() {
	words := []string{phiWord, plainWord, addressWord}
	for _, d := range s.domains {
		if d != "valleyclinic.example" { // our own name is no secret
			words = append(words, d)
		}
	}
	err := filepath.WalkDir(filepath.Join(s.dir, "data"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		s.silent(path, text, words...)
		return err
	})
	if err != nil {
		s.t.Errorf("data folder: %v", err)
	}
}

// nothingIsSaid looks at what leaves for others (promise 5).
func (s *story) nothingIsSaid() {
	s.silent("the log", s.logs.Bytes(), phiWord, plainWord, addressWord)
	s.silent("SMTP replies", []byte(strings.Join(s.replies, "\n")), phiWord, plainWord, addressWord)
	s.silent("clear text on the wire", s.net.Cleartext(), phiWord)
}

// mailboxes looks at what arrived: notices, codes and DSNs say nothing of the
// mail, and a mail arrives once.
func (s *story) mailboxes() {
	seen := map[string]int{}
	for _, h := range s.net.Hosts() {
		for _, m := range h.Messages() {
			kind := kindOf(m)
			if m.From == "" {
				s.silent("a "+kind+" of ours", plain(m.Data), phiWord, plainWord)
				continue
			}
			for _, r := range m.Rcpt {
				seen[r.Address+" "+messageID(m.Data)]++
			}
		}
	}
	for key, n := range seen {
		if n > 1+s.repeats {
			s.t.Errorf("%s arrived %d times", key, n)
		}
	}
}

func messageID(data []byte) string {
	_, rest, _ := bytes.Cut(data, []byte("Message-ID: "))
	id, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(id)
}
