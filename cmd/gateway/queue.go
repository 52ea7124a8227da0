package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/store"
	"github.com/phigate/phigate/policy"
	"github.com/phigate/phigate/queue"
)

func (c *command) queue() *cobra.Command {
	return group("queue", "Mail that is still to be sent, or held",
		c.queueList(), c.queueShow(), c.queueDestinations(),
		c.queueChange("retry", "Try ready mail now", "operator", (*queue.Queue).Retry),
		c.queueChange("hold", "Keep ready mail from being sent", "", (*queue.Queue).Hold),
		c.queueRelease(),
		c.queuePause("pause", "Let nothing be sent until resume; mail is still accepted", (*queue.Queue).Pause),
		c.queuePause("resume", "Go on sending after a pause", (*queue.Queue).Resume),
		c.queueChange("cancel", "Take mail out of the queue for good; its sender is not told", "", (*queue.Queue).Cancel))
}

// selectFlags select envelopes by what they are.
type selectFlags struct {
	state, sender, campaign, destination, code string
	older                                      time.Duration
}

func (f *selectFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.state, "state", "", "ready, leased or held")
	fs.StringVar(&f.sender, "sender", "", "sender's name in policy.yaml")
	fs.StringVar(&f.campaign, "campaign", "", "campaign")
	fs.StringVar(&f.destination, "destination", "", "recipient domain")
	fs.StringVar(&f.code, "code", "", "code, such as HG-H603")
	fs.DurationVar(&f.older, "older", 0, "accepted longer ago than this, such as 2h")
}

func (f *selectFlags) selection(ids []string, now time.Time) queue.Selection {
	s := queue.Selection{IDs: ids, Filter: store.Query{State: store.State(f.state), Sender: f.sender, Campaign: f.campaign,
		Dest: f.destination, Code: policy.Code(f.code)}}
	if f.older > 0 {
		s.Before = now.Add(-f.older)
	}
	return s
}

func (c *command) queueList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List queued and held mail", Example: "  gateway queue list --state held", Args: cobra.NoArgs}
	var f selectFlags
	f.add(cmd)
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per envelope")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		return list(c, *asJSON, "ENVELOPE\tSTATE\tCODE\tSENDER\tDESTINATION\tDUE\tTRIES\tLAST", g.Queue().List(ctx, f.selection(nil, g.Now())),
			func(r queue.Row) string {
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s", r.Envelope, r.State, r.Code, cut(r.Sender, 12), cut(r.Destination, 20),
					r.Due.Format("01-02 15:04"), r.Attempts, r.LastReply)
			})
	}})
}

func (c *command) queueShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show ID", Short: "Show all that is known of a queued message",
		Example: "  gateway queue show 0dh2k3m4n5p6q", Args: cobra.ExactArgs(1)}
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per envelope")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		rows, err := g.Queue().Show(ctx, args[0])
		if err != nil {
			return queueFailed(err)
		}
		if *asJSON {
			return jsonLines(c.out, rows)
		}
		for _, r := range rows {
			entry, _ := policy.Lookup(r.Code)
			for _, line := range [][2]string{
				{"envelope", string(r.Envelope)}, {"recipient", r.Recipient.Clear()}, {"state", string(r.State)}, {"code", string(r.Code)},
				{"reason", entry.Reason}, {"rule", r.Rule}, {"sender", r.Sender}, {"campaign", r.Campaign}, {"destination", r.Destination},
				{"floor", r.Floor}, {"else", r.Else}, {"accepted", r.Accepted.String()}, {"due", r.Due.String()},
				{"expires", r.Expires.String()}, {"attempts", fmt.Sprint(r.Attempts)}, {"last reply", strings.TrimSpace(r.LastReply + " " + r.Class)}, {"size", fmt.Sprint(r.Size)},
				{"next step", entry.NextStaff},
			} {
				if line[1] != "" {
					fmt.Fprintf(c.out, "%-12s %s\n", line[0], line[1])
				}
			}
			fmt.Fprintln(c.out)
		}
		return nil
	}})
}

func (c *command) queueDestinations() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "destinations",
		Short: "List where mail goes, how fast, and what is suspended",
		Long: "A row for each site: a provider of shaping.yaml with all domains it hosts, or the registrable domain of\n" +
			"other MX hosts. The window is how many connections are allowed now; rates are messages per minute.",
		Example: "  gateway queue destinations\n  gateway queue destinations --domains --json",
		Args:    cobra.NoArgs,
	}
	domains := cmd.Flags().Bool("domains", false, "a row for each domain")
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per row")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		m := c.meter()
		reason, stopped, err := g.Queue().Stopped(ctx)
		if err != nil {
			return queueFailed(err)
		}
		if stopped {
			fmt.Fprintf(c.err, "the queue is paused: %s\n", reason)
		}
		rows, err := g.Queue().Destinations(ctx, *domains, func(n int) { m.draw("%d envelopes read", n) })
		m.wipe()
		if err != nil {
			return queueFailed(err)
		}
		return list(c, *asJSON, "SITE\tQUEUED\tFLYING\tHELD\tWINDOW\tRATE\tLIMIT\tLAST\tUNTIL\tWHY", given(rows), destinationCells)
	}})
}

func destinationCells(d queue.Destination) string {
	name, until := d.Site, ""
	if d.Domain != "" {
		name = d.Domain
	}
	if d.Suspended != nil {
		until = d.Suspended.Format("15:04:05")
	}
	return fmt.Sprintf("%s\t%d\t%d\t%d\t%d/%d\t%d\t%v\t%s\t%s\t%s", cut(name, 22), d.Queued, d.InFlight, d.Held,
		d.Connections, d.Window, d.Rate, d.Limit, d.LastReply, until, cut(d.Why, 20))
}

// queuePause is pause or resume, of all mail.
func (c *command) queuePause(verb, short string, do func(*queue.Queue, context.Context, queue.By) error) *cobra.Command {
	cmd := &cobra.Command{Use: verb, Short: short, Example: "  gateway queue " + verb + " --reason 'our address is listed'", Args: cobra.NoArgs}
	why := cmd.Flags().String("reason", "", "why, for the audit log (required)")
	cmd.MarkFlagRequired("reason")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		if err := do(g.Queue(), ctx, queue.By{Who: person(*by), Reason: *why}); err != nil {
			return queueFailed(err)
		}
		fmt.Fprintf(c.out, "%s: done\n", verb)
		return nil
	}})
}

func queueFailed(err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return no(errors.New("nothing in the queue has this id"))
	case errors.Is(err, queue.ErrNothingSelected), errors.Is(err, queue.ErrNoReason):
		return usage(err)
	case errors.Is(err, queue.ErrLeased):
		return no(err)
	}
	return unreachable(err)
}

// queueChange is a verb of the queue on ids or on all that flags select.
func (c *command) queueChange(verb, short, reason string, do func(*queue.Queue, context.Context, queue.Selection, queue.By) (queue.Changed, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " [ID…]", Short: short,
		Example: fmt.Sprintf("  gateway queue %s 0dh2k3m4n5p6q --reason 'asked by the sender'\n  gateway queue %s --campaign spring --older 2h --dry-run", verb, verb),
	}
	var f selectFlags
	f.add(cmd)
	why := cmd.Flags().String("reason", reason, "why, for the audit log")
	dry := cmd.Flags().Bool("dry-run", false, "count what would be changed, and change nothing")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		m := c.meter()
		s := f.selection(args, g.Now())
		s.DryRun, s.Progress = *dry, func(changed queue.Changed) { m.draw("%s: %d done", verb, changed.Done) }
		changed, err := do(g.Queue(), ctx, s, queue.By{Who: person(*by), Reason: *why})
		m.wipe()
		if err != nil {
			return queueFailed(err)
		}
		done := "done"
		if *dry {
			done = "would be done"
		}
		fmt.Fprintf(c.out, "%s: %d %s, %d being sent now, %d in another state\n", verb, changed.Done, done, changed.Busy, changed.Other)
		if changed.Done == 0 {
			return no(nil)
		}
		return nil
	}})
}

func (c *command) queueRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "release ID…",
		Short: "Let held mail go, if the records of now allow it",
		Long: "Decides again from the first rule with the release on record. What the records refuse stays refused.\n" +
			"A correction says what the reviewer found: class, PHI band, or that all could be read.",
		Example: "  gateway queue release 0dh2k3m4n5p6q --reason 'opened it, a blank form' --phi none --scan complete",
		Args:    cobra.MinimumNArgs(1),
	}
	reason := cmd.Flags().String("reason", "", "why (required)")
	class := cmd.Flags().String("class", "", "correct the class")
	phi := cmd.Flags().String("phi", "", "correct the PHI band")
	scan := cmd.Flags().String("scan", "", "correct the scan: complete")
	cmd.MarkFlagRequired("reason")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		correction, err := gateway.ReadCorrection(*class, *phi, *scan)
		if err != nil {
			return usage(err)
		}
		review := gateway.Review{By: person(*by), Reason: *reason, Correction: correction}
		released := 0
		for row, err := range g.Queue().List(ctx, queue.Selection{IDs: args}) {
			if err != nil {
				return queueFailed(err)
			}
			v, err := g.Release(ctx, row.Envelope, review)
			if err != nil {
				fmt.Fprintf(c.out, "%s: %v\n", row.Envelope, err)
				continue
			}
			released++
			fmt.Fprintf(c.out, "%s: released, %s (%s)\n", row.Envelope, v.Action, v.Code)
		}
		if released == 0 {
			return no(nil)
		}
		return nil
	}})
}
