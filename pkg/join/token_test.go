package join

import (
	"strings"
	"testing"
)

var (
	someHash  = strings.Repeat("0123456789abcdef", 4)
	otherHash = strings.Repeat("fedcba9876543210", 4)
	someToken = Token{CAHash: someHash, ID: "abcdef", Secret: "0123456789abcdef"}
)

func TestParseToken(t *testing.T) {
	good := someToken.String()
	for name, tc := range map[string]struct {
		text string
		want string // part of the error; empty: it is good
	}{
		"good":              {good, ""},
		"space around":      {" " + good + "\n", ""},
		"empty":             {"", "does not begin with labk1-"},
		"another program's": {"K10" + someHash + "::server:secret", "does not begin with labk1-"},
		"bootstrap alone":   {someToken.Bootstrap(), "does not begin with labk1-"},
		"another format":    {"labk2" + strings.TrimPrefix(good, "labk1"), "does not begin with labk1-"},
		"prefix alone":      {"labk1-", "not whole"},
		"no bootstrap":      {"labk1-" + someHash, "not whole"},
		"end cut":           {good[:len(good)-1], "not whole"},
		"end too long":      {good + "0", "not whole"},
		"hash cut":          {strings.Replace(good, someHash, someHash[1:], 1), "not whole"},
		"hash in capitals":  {strings.Replace(good, someHash, strings.ToUpper(someHash), 1), "not whole"},
		"no point":          {strings.Replace(good, ".", "", 1), "not whole"},
		"a letter too many": {strings.Replace(good, "abcdef.", "abcdéf.", 1), "not whole"},
		"space inside":      {strings.Replace(good, ".", ". ", 1), "not whole"},
		"two":               {good + "\n" + good, "not whole"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseToken(tc.text)
			switch {
			case tc.want == "" && (err != nil || got != someToken):
				t.Errorf("got %+v, %v", got, err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %+v, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestTokenOf(t *testing.T) {
	const passphrase = "correct horse battery staple"
	derived, err := TokenOf(passphrase, someHash)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := TokenOf(" "+passphrase+"\n", someHash); err != nil || again != derived {
		t.Errorf("the same passphrase gives %+v and %+v, %v", derived, again, err)
	}
	if other, err := TokenOf(passphrase+"!", someHash); err != nil || other.ID == derived.ID || other.Secret == derived.Secret {
		t.Errorf("another passphrase gives %+v and %+v, %v", derived, other, err)
	}
	if got, err := ParseToken(derived.String()); err != nil || got != derived {
		t.Errorf("what a passphrase gives is no token: %+v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		configured string
		want       Token
		problem    string
	}{
		"whole":             {someToken.String(), someToken, ""},
		"bootstrap":         {someToken.Bootstrap(), someToken, ""},
		"another cluster's": {Token{CAHash: otherHash, ID: someToken.ID, Secret: someToken.Secret}.String(), Token{}, "of another cluster"},
		"half":              {"labk1-" + someHash, Token{}, "not whole"},
		"short":             {"1234567", Token{}, "too short"},
		"blank":             {"        ", Token{}, "too short"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := TokenOf(tc.configured, someHash)
			switch {
			case tc.problem == "" && (err != nil || got != tc.want):
				t.Errorf("got %+v, %v", got, err)
			case tc.problem != "" && (err == nil || !strings.Contains(err.Error(), tc.problem)):
				t.Errorf("got %+v, %v; want %q", got, err, tc.problem)
			}
		})
	}
}

// A token of before the authorities were changed is good, and names the present one from then on.
func TestTokenOfFormer(t *testing.T) {
	old := Token{CAHash: otherHash, ID: someToken.ID, Secret: someToken.Secret}
	if got, err := TokenOf(old.String(), someHash, otherHash); err != nil || got != someToken {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestNewToken(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		made, err := NewToken(someHash)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseToken(made.String()); err != nil || got != made {
			t.Fatalf("%s: %+v, %v", made, got, err)
		}
		if seen[made.Secret] {
			t.Fatalf("the secret %s came twice", made.Secret)
		}
		seen[made.Secret] = true
	}
}

func TestMachineSame(t *testing.T) {
	pc := Machine{ID: "id", DMI: "dmi", MACs: []string{"a", "b"}}
	for name, tc := range map[string]struct {
		one, other Machine
		want       bool
	}{
		"itself":                   {pc, pc, true},
		"re-imaged":                {pc, Machine{ID: "new", DMI: "dmi", MACs: []string{"a", "b"}}, true},
		"one card more":            {pc, Machine{ID: "id", DMI: "dmi", MACs: []string{"a", "b", "c"}}, true},
		"one card of two":          {pc, Machine{MACs: []string{"b"}}, true},
		"cloned":                   {pc, Machine{ID: "id", DMI: "dmi", MACs: []string{"c"}}, false},
		"another":                  {pc, Machine{ID: "x", DMI: "y", MACs: []string{"c", "d"}}, false},
		"no cards":                 {pc, Machine{ID: "id", DMI: "dmi"}, true},
		"no cards, another board":  {pc, Machine{ID: "id", DMI: "other"}, false},
		"no cards, another system": {pc, Machine{ID: "new", DMI: "dmi"}, false},
		"nothing known of either":  {Machine{}, Machine{}, false},
		"boards that share an id":  {Machine{DMI: "dmi"}, Machine{DMI: "dmi"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.one.Same(tc.other); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if got := tc.other.Same(tc.one); got != tc.want {
				t.Errorf("the other way round: got %v, want %v", got, tc.want)
			}
		})
	}
}
