package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// promises names, for each promise of the product, the tests that are there to fail
// when it is broken: stories of testdata/script, and tests as folder.Name.
var promises = []struct {
	promise string
	stories string
	tests   string
}{
	{"250 means on stable storage, with its audit leaf; a crash loses nothing accepted",
		"crash-accept crash-deliver disk-full repeated restart-queue",
		"internal/store/bolt.TestCrash internal/store/bolt.TestKill internal/store/bolt.TestDiskFull"},
	{"health information never travels unverified",
		"deliver pickup stripped unproven two-servers sts-survives reply-lost no-portal",
		"tlscheck.TestGuard tlscheck.TestR43_NeverClearTextWithFloor tlscheck.TestZeroConnRefuses"},
	{"in doubt nothing is sent, and it is said what is missing",
		"dns-fails disk-full held hostile-bodies does-not-start smuggling",
		"tlscheck.TestR24_UnreadableCacheIsNotAMiss internal/registry.TestUnreadable"},
	{"what is stored is sealed",
		"", // every story greps its data folder
		"internal/store/bolt.TestCanary internal/store/bolt.TestRawCopy internal/keys.TestDestroyShreds"},
	{"no health information in logs, metrics, replies, DSNs, audit leaves, errors, titles, URLs",
		"bounced mixed notice-bounces", // and every story looks at all of these
		"internal/audit.TestLeafHidesPeople internal/keys.TestKeyPrintsNothing internal/yamlfile.TestMistakesNeverRepeatValues"},
	{"every decision is on record, in the transaction of its effect, and can be proved",
		"refused-at-rcpt refused-after-data release operator", // and every story verifies its log
		"internal/audit.TestVerifyFindsARewrittenLog internal/audit.TestProof"},
	{"revocation wins",
		"revoked-queued revoked-pickup baa-ends lapsed",
		"internal/registry.TestRevocationCannotBeUndone"},
	{"mistakes in files name file, line, column and the fix; a reload keeps the old",
		"reload leaky",
		"internal/yamlfile.TestDecodeNamesEveryMistake gateway.TestConfigMistakesAreAllNamed"},
	{"a policy that can leak does not load",
		"reload leaky",
		"policy.TestLeaksFindsAMissingRule policy.TestLeaksFindsAWeakenedRule policy.TestLeaksMissesNothing"},
}

// TestPromisesHaveTests fails when a test that keeps a promise is gone or was renamed.
func TestPromisesHaveTests(t *testing.T) {
	for _, p := range promises {
		for _, story := range strings.Fields(p.stories) {
			if _, err := os.Stat(filepath.Join("../../testdata/script", story+".txtar")); err != nil {
				t.Errorf("%s: no story %s", p.promise, story)
			}
		}
		for _, test := range strings.Fields(p.tests) {
			folder, name, _ := strings.Cut(test, ".")
			if !hasTest(t, filepath.Join("../..", folder), name) {
				t.Errorf("%s: no %s in %s", p.promise, name, folder)
			}
		}
	}
}

func hasTest(t *testing.T, folder, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func ` + name + `\(`)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if declared.Match(text) {
			return true
		}
	}
	return false
}
