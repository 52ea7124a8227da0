package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/internal/yamlfile"
)

func (c *command) check() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check configuration, keys, certificates and policy; prove that the policy cannot leak",
		Long: "Reads everything the site is made of and prints all mistakes at once, by file, line and column.\n" +
			"Then it walks every combination of facts and proves that no rule sends health information without\n" +
			"contract, required consent or transport floor, and runs policy_test.yaml.",
		Example: "  gateway check -c /etc/gateway/gateway.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := gateway.LoadConfig(c.configPath())
			var problems yamlfile.Problems
			if errors.As(err, &problems) {
				return c.reportCheck(gateway.CheckReport{Problems: []string{problems.Error()}}, asJSON)
			}
			if err != nil {
				return usage(err)
			}
			r, err := gateway.Check(cmd.Context(), cfg, time.Now(), c.progress("proving that the policy cannot leak"))
			if err != nil {
				return unreachable(err)
			}
			return c.reportCheck(r, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "the report as JSON")
	return cmd
}

func (c *command) reportCheck(r gateway.CheckReport, asJSON bool) error {
	if asJSON {
		if err := json.NewEncoder(c.out).Encode(r); err != nil {
			return err
		}
	} else {
		for _, p := range r.Problems {
			fmt.Fprintln(c.out, p)
		}
		for _, w := range r.Warnings {
			fmt.Fprintln(c.out, "warning: "+w)
		}
		if r.OK {
			fmt.Fprintf(c.out, "ok: the policy cannot leak, and %d policy tests pass\n", r.Tests)
		}
	}
	if !r.OK {
		return no(nil)
	}
	return nil
}
