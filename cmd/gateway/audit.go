package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/audit"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
)

func (c *command) audit() *cobra.Command {
	return group("audit", "The log of every decision", c.auditList(), c.auditExport(), c.auditVerify())
}

// filterFlags select entries of the log.
type filterFlags struct {
	since, until, id, event, code, recipient, sender, campaign string
	limit                                                      int
}

func (f *filterFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.since, "since", "", "from this time on: a duration back (24h), a day or an RFC 3339 time")
	fs.StringVar(&f.until, "until", "", "before this time")
	fs.StringVar(&f.id, "id", "", "the id said in the SMTP reply")
	fs.StringVar(&f.event, "event", "", "delivered, pickup, bounced, held, deferred, rejected, released, …")
	fs.StringVar(&f.code, "code", "", "code, such as HG-C101")
	fs.StringVar(&f.recipient, "recipient", "", "recipient address")
	fs.StringVar(&f.sender, "sender", "", "sender's name in policy.yaml")
	fs.StringVar(&f.campaign, "campaign", "", "campaign")
	fs.IntVar(&f.limit, "limit", 0, "at most so many entries (default all)")
}

func (f *filterFlags) filter(now time.Time) (audit.Filter, error) {
	out := audit.Filter{ID: store.ID(f.id), Code: policy.Code(f.code), Recipient: policy.Address(f.recipient),
		Sender: f.sender, Campaign: f.campaign, Limit: f.limit}
	if f.event != "" {
		out.Kinds = []audit.Kind{audit.Kind(f.event)}
	}
	var err1, err2 error
	out.From, err1 = moment(f.since, now)
	out.To, err2 = moment(f.until, now)
	return out, errors.Join(err1, err2)
}

// moment reads a time as people write it: a duration back, a day, or RFC 3339.
func moment(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("a time is written 24h, 2026-02-28 or 2026-02-28T15:04:05Z")
}

func (c *command) auditList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List decisions and what became of them; the reading is itself logged",
		Example: "  gateway audit list --since 24h --code HG-C101", Args: cobra.NoArgs,
	}
	var f filterFlags
	f.add(cmd)
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per entry")
	reason := cmd.Flags().String("reason", "", "why, for the log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return usage(err)
		}
		return list(c, *asJSON, "TIME\tID\tEVENT\tCODE\tRECIPIENT", g.Audit().List(ctx, audit.Reader{Who: person(*by), Reason: *reason}, filter),
			func(e audit.Entry) string {
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", e.Time.Format("2006-01-02 15:04:05"), e.ID, e.Kind, e.Code, cut(e.Recipient.Clear(), 40))
			})
	}})
}

func (c *command) auditExport() *cobra.Command {
	cmd := &cobra.Command{
		Use: "export", Short: "Export the log for staff (csv) or machines (jsonl, cef, ocsf, fhir)",
		Example: "  gateway audit export --format csv --recipients --since 720h > decisions.csv", Args: cobra.NoArgs,
	}
	var f filterFlags
	f.add(cmd)
	format := cmd.Flags().String("format", "csv", "csv, jsonl, cef, ocsf or fhir")
	recipients := cmd.Flags().Bool("recipients", false, "with addresses and reasons, for those who may see them")
	reason := cmd.Flags().String("reason", "", "why, for the log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		filter, err := f.filter(time.Now())
		if err != nil {
			return usage(err)
		}
		_, err = g.Audit().Export(ctx, c.out, audit.Reader{Who: person(*by), Reason: *reason},
			audit.Export{Format: *format, Filter: filter, Recipients: *recipients})
		if errors.Is(err, audit.ErrFormat) {
			return usage(err)
		}
		if err != nil {
			return unreachable(err)
		}
		return nil
	}})
}

func (c *command) auditVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that no entry was changed, removed or reordered",
		Long: "Recomputes every hash of the log and compares it with all checkpoints. With --from it also proves\n" +
			"that nothing was removed since a checkpoint that was kept elsewhere.",
		Example: "  gateway audit verify --from checkpoint-of-last-year.txt",
		Args:    cobra.NoArgs,
	}
	from := cmd.Flags().String("from", "", "checkpoint file kept elsewhere")
	asJSON := cmd.Flags().Bool("json", false, "the report as JSON")
	return c.site(siteVerb{cmd: cmd, file: noInput, path: from, do: func(ctx context.Context, g *gateway.Gateway, _ []string, in input) error {
		var checkpoints [][]byte
		if *from != "" {
			data, err := io.ReadAll(in)
			if err != nil {
				return usage(errors.New("cannot read the checkpoint"))
			}
			checkpoints = append(checkpoints, data)
		}
		r, err := g.Audit().Verify(ctx, checkpoints...)
		if err != nil {
			return unreachable(err)
		}
		if *asJSON {
			if err := json.NewEncoder(c.out).Encode(r); err != nil {
				return err
			}
		} else {
			for _, p := range r.Problems {
				fmt.Fprintln(c.out, p)
			}
			fmt.Fprintf(c.out, "%d leaves, %d checkpoints, root %s\n", r.Leaves, r.Checkpoints, r.Root)
		}
		if !r.OK() {
			return no(errors.New("the log was tampered with or damaged"))
		}
		return nil
	}})
}
