package gateway

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/phigate/phigate/configs"
)

var update = flag.Bool("update", false, "write generated files anew")

func TestShippedConfigIsReadable(t *testing.T) {
	c, err := ParseConfig("gateway.yaml", configs.Gateway)
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(c.Data) || !filepath.IsAbs(c.AdminSocket) {
		t.Errorf("paths are not absolute: %s, %s", c.Data, c.AdminSocket)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	const path = "../configs/gateway.schema.json"
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, configs.GatewaySchema) {
		t.Errorf("%s is not current; go test ./gateway -run TestSchemaIsCurrent -update", path)
	}
}

func TestConfigMistakesAreAllNamed(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad files: %v", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(f, ".yaml") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			_, got := ParseConfig("gateway.yaml", data)
			if got == nil {
				t.Fatal("the file was taken")
			}
			if *update {
				os.WriteFile(strings.TrimSuffix(f, ".yaml")+".want", []byte(got.Error()+"\n"), 0o644)
				return
			}
			if got.Error()+"\n" != string(want) {
				t.Errorf("got\n%v\nwant\n%s", got, want)
			}
		})
	}
}
