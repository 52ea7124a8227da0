package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/phigate/phigate/gateway"
	"github.com/phigate/phigate/policy"
)

func (c *command) policy() *cobra.Command {
	return group("policy", "Ask and test the decision table", c.policyDecide(), c.policyTest())
}

// rules reads the policy of the site, or, if -c names a policy file itself, that.
func (c *command) rules() (*policy.Policy, string, error) {
	path := c.configPath()
	cfg, err := gateway.LoadConfig(path)
	if err == nil {
		path = cfg.Policy
	} else if !gateway.IsPolicyFile(path) {
		return nil, "", usage(err)
	}
	p, err := gateway.LoadPolicy(path, time.Now())
	if err != nil {
		return nil, "", usage(err)
	}
	return p, path, nil
}

func (c *command) policyDecide() *cobra.Command {
	return &cobra.Command{
		Use:   "decide",
		Short: "Decide facts from standard input, a JSON line in, a JSON line out",
		Long: "The pure decision, for what-if questions and replay. A fact left out has its most cautious value.\n" +
			"The answer is the rule's verdict: a deliver keeps its else even if the assurance is too low.",
		Example: `  echo '{"records":"ok","class":"marketing","phi":"high","baa":"active"}' | gateway policy decide -c gateway.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, _, err := c.rules()
			if err != nil {
				return err
			}
			leak, err := p.Leaks(cmd.Context(), nil)
			if err != nil {
				return unreachable(err)
			}
			if leak != nil {
				return no(fmt.Errorf("this policy can leak and is not answered: %v", leak))
			}
			out := bufio.NewWriter(c.out)
			for f, err := range policy.ReadFacts(c.in) {
				if err != nil {
					out.Flush()
					return usage(err)
				}
				fmt.Fprintf(out, "%s\n", p.Decide(f).Line())
			}
			return out.Flush()
		},
	}
}

func (c *command) policyTest() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:     "test [FILE]",
		Short:   "Run policy tests (policy_test.yaml beside the policy)",
		Example: "  gateway policy test -c gateway.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			p, path, err := c.rules()
			if err != nil {
				return err
			}
			file := filepath.Join(filepath.Dir(path), "policy_test.yaml")
			if len(args) == 1 {
				file = args[0]
			}
			data, err := os.ReadFile(file)
			if err != nil {
				return usage(err)
			}
			cases, problems := policy.ParseTests(file, data)
			if err := problems.Err(); err != nil {
				return usage(err)
			}
			inspect, err := gateway.Inspector(p, path)
			if err != nil {
				return usage(err)
			}
			return c.reportCases(p.RunTests(cases, inspect), verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "name the tests that pass too")
	return cmd
}

func (c *command) reportCases(results []policy.CaseResult, verbose bool) error {
	failed := 0
	for _, r := range results {
		switch {
		case r.Failed != "":
			failed++
			fmt.Fprintf(c.out, "FAIL %s: %s\n     %s\n", r.Case.Where, r.Case.Name, r.Failed)
		case verbose:
			fmt.Fprintf(c.out, "ok   %-10s %s\n", r.Got.Code, r.Case.Name)
		}
	}
	fmt.Fprintf(c.out, "%d passed, %d failed\n", len(results)-failed, failed)
	if len(results) == 0 {
		return no(errors.New("the file holds no tests"))
	}
	if failed > 0 {
		return no(nil)
	}
	return nil
}
