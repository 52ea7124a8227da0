package audit

import (
	"context"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/phigate/phigate/policy"
)

// ErrFormat is returned for an unknown export format.
var ErrFormat = errors.New("audit: unknown format")

// Export is what to write.
type Export struct {
	Format     string // csv, jsonl, cef, ocsf or fhir
	Filter     Filter
	Recipients bool // whether the reader's role may see who the recipients are
}

// writer writes entries in one format.
type writer interface {
	write(Entry) error
	end() error
}

func (l *Log) writer(w io.Writer, format string) (writer, error) {
	switch format {
	case "csv":
		return newCSV(w), nil
	case "jsonl":
		return lines(w, func(e Entry) any { return e }), nil
	case "cef":
		return cef{w}, nil
	case "ocsf":
		return lines(w, l.ocsf), nil
	case "fhir":
		return lines(w, l.fhir), nil
	}
	return nil, fmt.Errorf("%w: use csv, jsonl, cef, ocsf or fhir", ErrFormat)
}

// Export writes down that r exports the log, then writes the entries to w and
// returns how many. cef, ocsf and fhir tell of mail only. Without Recipients no
// address, evidence or free text is written; a recipient is then left out, or a
// keyed hash in the formats for machines, so that equal ones can be told.
func (l *Log) Export(ctx context.Context, w io.Writer, r Reader, x Export) (int, error) {
	out, err := l.writer(w, x.Format)
	if err != nil {
		return 0, err
	}
	codes := x.Filter.codes()
	codes["format"] = x.Format
	size, err := l.open(ctx, r, Event{Kind: Exported, Codes: codes, Evidence: x.Filter.evidence()})
	if err != nil {
		return 0, err
	}
	n := 0
	l.scan(ctx, size, x.Filter, func(e Entry, failed error) bool {
		if err = failed; err != nil {
			return false
		}
		e, ok := l.shown(e, x)
		if !ok {
			return true
		}
		if err = out.write(e); err != nil {
			return false
		}
		n++
		return true
	})
	if e := out.end(); err == nil {
		err = e
	}
	if err != nil {
		return n, fmt.Errorf("audit: export: %w", err)
	}
	return n, nil
}

// shown is the entry as this export may tell it; ok is false if it says nothing of it.
func (l *Log) shown(e Entry, x Export) (_ Entry, ok bool) {
	machine := x.Format != "csv" && x.Format != "jsonl"
	if machine && !e.Kind.ofMail() {
		return e, false
	}
	if x.Recipients && x.Format != "cef" {
		return e, true
	}
	hash := l.hash(e.Recipient)
	e.Recipient, e.Return, e.Reason, e.Evidence, e.Redacted = "", "", "", nil, true
	if machine {
		e.Recipient = hash
	}
	return e, true
}

func (l *Log) hash(a policy.Address) policy.Address {
	if a == "" {
		return ""
	}
	h := l.o.Sealer.Index("audit recipient", a.Key())
	return policy.Address(hex.EncodeToString(h[:]))
}

// ofMail reports whether the kind tells what became of mail.
func (k Kind) ofMail() bool {
	switch k {
	case Delivered, Pickup, Bounced, Complained, Held, Deferred, Rejected, Released, Recalled, Cancelled:
		return true
	}
	return false
}

// jsonLines writes a JSON object per line.
type jsonLines struct {
	*json.Encoder
	shape func(Entry) any
}

func lines(w io.Writer, shape func(Entry) any) jsonLines { return jsonLines{json.NewEncoder(w), shape} }

func (j jsonLines) write(e Entry) error { return j.Encode(j.shape(e)) }
func (jsonLines) end() error            { return nil }

// csvFile is a table for compliance staff, in plain words.
type csvFile struct{ w *csv.Writer }

var columns = []string{
	"time", "id", "event", "code", "reason", "law", "next_step", "recipient",
	"sender", "partner", "campaign", "rule", "policy", "who", "note", "leaf",
}

func newCSV(w io.Writer) csvFile {
	c := csvFile{csv.NewWriter(w)}
	c.w.Write(columns) // an error stays until Flush
	return c
}

func (c csvFile) write(e Entry) error {
	says, _ := policy.Lookup(e.Code)
	row := []string{
		e.Time.Format(time.RFC3339), string(e.ID), string(e.Kind), string(e.Code), says.Reason, says.Law, says.NextStaff,
		e.Recipient.Clear(), e.Sender, e.Partner, e.Campaign, e.Rule, e.Policy, e.Who, e.Reason, fmt.Sprint(e.N),
	}
	for i, v := range row {
		row[i] = guard(v)
	}
	return c.w.Write(row)
}

func (c csvFile) end() error {
	c.w.Flush()
	return c.w.Error()
}

// guard keeps a spreadsheet from reading a cell as a formula (OWASP, CSV injection).
func guard(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r\n", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

// cef is ArcSight's Common Event Format, for a SIEM.
type cef struct{ w io.Writer }

var (
	cefHeader = strings.NewReplacer(`\`, `\\`, `|`, `\|`, "\n", " ", "\r", " ")
	cefValue  = strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`)
)

func (c cef) write(e Entry) error {
	says, known := policy.Lookup(e.Code)
	signature, name := string(e.Code), says.Reason
	if !known {
		signature, name = string(e.Kind), string(e.Kind)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "CEF:0|Open|HIPAAGateway|1.0|%s|%s|%d|", cefHeader.Replace(signature), cefHeader.Replace(name), severity(e.Kind))
	fmt.Fprintf(&b, "rt=%d act=%s", e.Time.UnixMilli(), e.Kind)
	put := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", key, cefValue.Replace(value))
		}
	}
	put("suser", firstOf(e.Partner, e.Sender))
	put("duser", e.Recipient.Clear())
	for i, f := range [][2]string{{"decision", string(e.ID)}, {"policy", e.Policy}, {"rule", e.Rule}} {
		if f[1] != "" {
			put(fmt.Sprintf("cs%dLabel", i+1), f[0])
			put(fmt.Sprintf("cs%d", i+1), f[1])
		}
	}
	put("cn1Label", "leaf")
	put("cn1", fmt.Sprint(e.N))
	b.WriteByte('\n')
	_, err := io.WriteString(c.w, b.String())
	return err
}

func (c cef) end() error { return nil }

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// severity is CEF's 0 to 10.
func severity(k Kind) int {
	switch k {
	case Rejected, Bounced, Complained:
		return 6
	case Held, Deferred, Recalled, Revoked:
		return 5
	}
	return 3
}
