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
	Format     string // csv, jsonl or cef
	Filter     Filter
	Recipients bool // whether the reader's role may see who the recipients are
}

// writer writes entries in one format.
type writer interface {
	write(Entry) error
	end() error
}

func (l *Log) writer(w io.Writer, x Export) (writer, error) {
	switch x.Format {
	case "csv":
		return newCSV(w), nil
	case "jsonl":
		return jsonl{json.NewEncoder(w)}, nil
	case "cef":
		return cef{w, l.o.Sealer}, nil
	}
	return nil, fmt.Errorf("%w: use csv, jsonl or cef", ErrFormat)
}

// Export writes down that r exports the log, then writes the entries to w and
// returns how many. Without Recipients no address, evidence or free text is in it.
func (l *Log) Export(ctx context.Context, w io.Writer, r Reader, x Export) (int, error) {
	out, err := l.writer(w, x)
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
		if _, hashes := out.(cef); !x.Recipients && !hashes {
			e = e.withoutPeople()
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

func (e Entry) withoutPeople() Entry {
	e.Recipient, e.Return, e.Reason, e.Evidence = "", "", "", nil
	e.Redacted = true
	return e
}

type jsonl struct{ *json.Encoder }

func (j jsonl) write(e Entry) error { return j.Encode(e) }
func (jsonl) end() error            { return nil }

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

// cef is ArcSight's Common Event Format, for a SIEM. Recipients are keyed hashes
// in it, so that equal ones can be told without being known.
type cef struct {
	w      io.Writer
	sealer Sealer
}

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
	put("duser", c.hash(e.Recipient))
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

func (c cef) hash(a policy.Address) string {
	if a == "" {
		return ""
	}
	h := c.sealer.Index("audit recipient", a.Key())
	return hex.EncodeToString(h[:])
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// severity is CEF's 0 to 10.
func severity(k Kind) int {
	switch k {
	case Rejected, Bounced:
		return 6
	case Held, Deferred, Recalled, Revoked:
		return 5
	}
	return 3
}
