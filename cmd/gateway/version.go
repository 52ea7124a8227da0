package main

import (
	"crypto/fips140"
	"fmt"
	"runtime/debug"
)

// version names the build and the cryptographic module it uses.
func version() string {
	v := "devel"
	if b, ok := debug.ReadBuildInfo(); ok {
		if b.Main.Version != "" && b.Main.Version != "(devel)" {
			v = b.Main.Version
		}
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v += " " + s.Value[:12]
			}
		}
	}
	if fips140.Enabled() {
		return fmt.Sprintf("%s (FIPS 140-3 module %s)", v, fips140.Version())
	}
	return v
}
