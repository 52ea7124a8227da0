package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// man writes the manual pages, one for each command, dated by SOURCE_DATE_EPOCH
// if that is set. It is for packagers, and so not in the list of commands.
func (c *command) man() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages of all commands",
		Example: "  gateway man /usr/local/share/man/man1",
		Args:    cobra.ExactArgs(1),
		Hidden:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return usage(err)
			}
			cmd.Root().DisableAutoGenTag = true // no page says when it was generated
			header := &doc.GenManHeader{Title: "GATEWAY", Section: "1", Source: "Phigate"}
			if err := doc.GenManTree(cmd.Root(), header, args[0]); err != nil {
				return unreachable(err)
			}
			return nil
		},
	}
}
