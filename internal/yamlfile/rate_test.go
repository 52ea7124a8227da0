package yamlfile

import (
	"testing"
	"time"
)

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"100/min": {100, time.Minute}, "1/s": {1, time.Second}, "20000/d": {20000, 24 * time.Hour}, "7 / h": {7, time.Hour},
	} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %v %v", text, got, err)
		}
		var again Rate
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%q printed as %q", text, got)
		}
	}
	for _, text := range []string{"", "100", "0/min", "-1/s", "1.5/s", "100/week", "/s", "1/", "99999999999/s"} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err == nil || got != (Rate{}) {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
	if d := (Rate{100, time.Minute}).Every(); d != 600*time.Millisecond {
		t.Errorf("every %v", d)
	}
	if (Rate{}).Every() != 0 || (Rate{}).String() != "" {
		t.Error("the zero rate is one")
	}
}
