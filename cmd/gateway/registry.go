package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/registry"
	"github.com/phigate/phigate/policy"
)

// recordFailed gives an error of the registry its exit status.
func recordFailed(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, registry.ErrBadRows), errors.Is(err, registry.ErrNotFound):
		return no(err)
	case errors.Is(err, registry.ErrStore):
		return unreachable(err)
	}
	return usage(err)
}

// person is who runs the command, for the audit log. A name given wins, then
// who called sudo.
func person(flag string) string {
	if flag != "" {
		return flag
	}
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

// byFlag adds --by.
func byFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("by", "", "who does it, for the audit log (default: the user)")
}

func (c *command) consent() *cobra.Command {
	return group("consent", "Authorizations and consents (45 CFR 164.508)",
		c.importRows(registry.Consents, "consents.csv"), c.exportRows(registry.Consents),
		c.consentShow(), c.grant(registry.Consents, "consent grant address=pat@example.org type=hipaa_authorization …"), c.consentRevoke())
}

func (c *command) partner() *cobra.Command {
	return group("partner", "Vendors and their contracts (BAA, 45 CFR 164.504(e))",
		c.importRows(registry.Partners, "partners.csv"), c.exportRows(registry.Partners), c.partnerShow(),
		c.grant(registry.Partners, "partner grant partner=acme-mailer role=business_associate …"), c.partnerRevoke())
}

func (c *command) suppression() *cobra.Command {
	return group("suppression", "Who must not be written to, and why",
		c.importRows(registry.Suppressions, "suppressions.csv"), c.exportRows(registry.Suppressions), c.suppressionShow(),
		c.grant(registry.Suppressions, "suppression grant address=pat@example.org reason=no_email source=phone at=2026-03-01"),
		c.suppressionRevoke())
}

func (c *command) importRows(what registry.Kind, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   fmt.Sprintf("Import a CSV file of %ss, all rows or none", what),
		Example: fmt.Sprintf("  gateway %s import %s", what, example),
		Args:    cobra.ExactArgs(1),
	}
	var o registry.ImportOptions
	cmd.Flags().BoolVar(&o.Partial, "partial", false, "import the good rows of a file that has bad ones")
	cmd.Flags().StringVar(&o.Reason, "reason", "", "why, for the audit log")
	asJSON := cmd.Flags().Bool("json", false, "the report as JSON")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: 0, do: func(ctx context.Context, g *gateway.Gateway, _ []string, in input) error {
		o.By = person(*by)
		m := c.meter()
		o.Progress = func(rows int) { m.draw("%d rows read", rows) }
		r, err := g.Registry().Import(ctx, what, in.name, in, o)
		m.wipe()
		if *asJSON {
			if e := json.NewEncoder(c.out).Encode(r); e != nil {
				return e
			}
		} else {
			c.printImport(r)
		}
		if errors.Is(err, registry.ErrBadRows) || errors.Is(err, registry.ErrUnreadable) && len(r.Problems) > 0 {
			return &exitError{statusOf(recordFailed(err)), nil} // the report has told all
		}
		return recordFailed(err)
	}})
}

func statusOf(err error) int {
	if e := (*exitError)(nil); errors.As(err, &e) {
		return e.status
	}
	return exitUsage
}

func (c *command) printImport(r registry.Report) {
	for _, p := range r.Problems {
		fmt.Fprintln(c.out, p)
	}
	for _, w := range r.Warnings {
		fmt.Fprintln(c.out, "warning:", w)
	}
	verb := "nothing imported"
	if r.Applied {
		verb = "imported"
	}
	n := r.Counts
	fmt.Fprintf(c.out, "%s: %d rows: %d added, %d changed, %d unchanged, %d defective, %d bad\n",
		verb, n.Rows, n.Added, n.Changed, n.Unchanged, n.Defective, n.Bad)
}

func (c *command) exportRows(what registry.Kind) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "export",
		Short:   fmt.Sprintf("Write all %ss as CSV, as import reads it", what),
		Example: fmt.Sprintf("  gateway %s export > %ss.csv", what, what),
		Args:    cobra.NoArgs,
	}
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, _ []string, _ input) error {
		return recordFailed(g.Registry().Export(ctx, what, c.out, person(*by)))
	}})
}

// grant adds one row given as COLUMN=VALUE.
func (c *command) grant(what registry.Kind, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "grant COLUMN=VALUE…",
		Short:   fmt.Sprintf("Add one %s, with the columns of the CSV file", what),
		Example: "  gateway " + example,
		Args:    cobra.MinimumNArgs(1),
	}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		cells := map[string]string{}
		for _, a := range args {
			name, value, ok := strings.Cut(a, "=")
			if _, twice := cells[name]; !ok || twice {
				return usage(errors.New("write each column once, as COLUMN=VALUE"))
			}
			cells[name] = value
		}
		r, err := g.Registry().Add(ctx, what, cells, registry.ImportOptions{By: person(*by), Reason: *reason})
		c.printImport(r)
		if err != nil && len(r.Problems) > 0 {
			return &exitError{statusOf(recordFailed(err)), nil}
		}
		return recordFailed(err)
	}})
}

func (c *command) consentShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ADDRESS", Short: "Show all consents of a person, and what a defective one lacks",
		Example: "  gateway consent show pat@example.org", Args: cobra.ExactArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per consent")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		rows, err := g.Registry().ConsentsOf(ctx, policy.Address(args[0]))
		if err != nil {
			return recordFailed(err)
		}
		return list(c, *asJSON, "TYPE\tSTATE\tSIGNED\tENDS\tPURPOSES\tLACKS", given(rows), func(s registry.ConsentState) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s", s.Type, s.State, day(s.SignedAt), day(s.ExpiresAt),
				cut(strings.Join(s.Purposes, ";"), 18), cut(strings.Join(s.Missing, ", "), 22))
		})
	}})
}

func (c *command) consentRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ADDRESS", Short: "Revoke consents from now on; queued mail and unread pickups are pulled",
		Example: "  gateway consent revoke pat@example.org --type hipaa_authorization --reason letter", Args: cobra.ExactArgs(1),
	}
	kind := cmd.Flags().String("type", "", "only this type (default: all)")
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		n, err := g.Registry().RevokeConsents(ctx, policy.Address(args[0]), *kind, person(*by), *reason)
		if err == nil {
			fmt.Fprintf(c.out, "revoked %d\n", n)
		}
		return recordFailed(err)
	}})
}

func (c *command) partnerShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [PARTNER]", Short: "Show how partners' contracts stand", Example: "  gateway partner show", Args: cobra.MaximumNArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per partner")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		rows, err := g.Registry().Partners(ctx)
		if len(args) == 1 {
			var p registry.PartnerState
			p, err = g.Registry().Partner(ctx, args[0])
			rows = []registry.PartnerState{p}
		}
		if err != nil {
			return recordFailed(err)
		}
		return list(c, *asJSON, "PARTNER\tBAA\tENDS\tREVIEW", given(rows), func(p registry.PartnerState) string {
			review := ""
			if p.ReviewOverdue {
				review = "overdue"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s", p.Partner, p.BAA, day(p.Ends), review)
		})
	}})
}

func (c *command) partnerRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke PARTNER", Short: "End a partner's contracts from now on; queued mail and unread pickups are pulled",
		Example: "  gateway partner revoke acme-mailer --reason \"contract ended\"", Args: cobra.ExactArgs(1),
	}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		n, err := g.Registry().TerminateContracts(ctx, args[0], person(*by), *reason)
		if err == nil {
			fmt.Fprintf(c.out, "ended %d\n", n)
		}
		return recordFailed(err)
	}})
}

func (c *command) suppressionShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ADDRESS", Short: "Show why an address is not written to", Example: "  gateway suppression show pat@example.org", Args: cobra.ExactArgs(1),
	}
	asJSON := cmd.Flags().Bool("json", false, "a JSON line per suppression")
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		rows, err := g.Registry().SuppressionsOf(ctx, policy.Address(args[0]))
		if err != nil {
			return recordFailed(err)
		}
		return list(c, *asJSON, "REASON\tSOURCE\tSINCE\tENDS", given(rows), func(s registry.Suppression) string {
			return fmt.Sprintf("%s\t%s\t%s\t%s", s.Reason, s.Source, day(s.At), day(s.ExpiresAt))
		})
	}})
}

func (c *command) suppressionRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ADDRESS REASON", Short: "Lift a suppression, such as hard_bounce",
		Example: "  gateway suppression revoke pat@example.org hard_bounce", Args: cobra.ExactArgs(2),
	}
	reason := cmd.Flags().String("reason", "", "why, for the audit log")
	by := byFlag(cmd)
	return c.site(siteVerb{cmd: cmd, file: noInput, do: func(ctx context.Context, g *gateway.Gateway, args []string, _ input) error {
		n, err := g.Registry().LiftSuppressions(ctx, policy.Address(args[0]), args[1], person(*by), *reason)
		if err == nil {
			fmt.Fprintf(c.out, "lifted %d\n", n)
		}
		return recordFailed(err)
	}})
}
