package lexicon

import "testing"

func lookup(lx *Lexicon, phrase string) Term {
	var state uint64
	var n int
	for _, h := range phraseWords(phrase) {
		state, n, _ = lx.Step(state, h)
	}
	return *lx.Term(n)
}

func TestLexiconKnowsItsLists(t *testing.T) {
	lx, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for phrase, want := range map[string]Kind{
		"Crohn's disease": Condition, "lab results": Result, "test result": Result, "pain points": Figure, "metformin": Drug,
		"colonoscopies": Procedure, "polymyositis": Condition, "explanation of benefits": Payment, "banana": NoKind, "table": NoKind,
	} {
		if got := lookup(lx, phrase).Kind; got != want {
			t.Errorf("%q is kind %d, want %d", phrase, got, want)
		}
	}
	if got := lookup(lx, "suboxone"); got.Topic != Substance || got.Tier != Specific {
		t.Errorf("suboxone: %+v", got)
	}
	if got := lookup(lx, "overdue").Cues; got&(Status|BindVerb) != Status|BindVerb {
		t.Errorf("overdue loses a cue: %b", got)
	}
	if !lx.ICD([]byte("e119")) || lx.ICD([]byte("e11")) {
		t.Error("E11.9 is a billable code, E11 is not")
	}
	if n := lx.Name(Hash([]byte("maria"))); n&FirstName == 0 {
		t.Error("maria is a first name")
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load(); err != nil {
			b.Fatal(err)
		}
	}
}
