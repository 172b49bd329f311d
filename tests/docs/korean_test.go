package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pair is a page in both languages.
type pair struct{ english, korean string }

// pairs returns each Korean page with its English one.
func pairs(t *testing.T) []pair {
	t.Helper()
	all := []pair{{"README.md", "README.ko.md"}}
	for _, page := range pages(t) {
		if filepath.Dir(page) == "docs/ko" {
			all = append(all, pair{filepath.Join("docs", filepath.Base(page)), page})
		}
	}
	if len(all) < 10 {
		t.Fatalf("found only %d Korean pages", len(all))
	}
	return all
}

// Below its title each of the two pages leads to the other.
func TestLanguages(t *testing.T) {
	for _, p := range pairs(t) {
		if _, err := os.Stat(filepath.Join(root, p.english)); err != nil {
			t.Errorf("%s has no English page: %v", p.korean, err)
			continue
		}
		toKorean, _ := filepath.Rel(filepath.Dir(p.english), p.korean)
		toEnglish, _ := filepath.Rel(filepath.Dir(p.korean), p.english)
		for page, want := range map[string]string{
			p.english: "English · [한국어](" + toKorean + ")",
			p.korean:  "[English](" + toEnglish + ") · 한국어",
		} {
			if lines := strings.SplitN(read(t, page), "\n", 4); len(lines) < 4 || lines[2] != want {
				t.Errorf("the third line of %s is not %q", page, want)
			}
		}
	}
}

// A Korean reader is led to Korean pages where there are any.
func TestStaysKorean(t *testing.T) {
	for _, p := range pairs(t) {
		for _, to := range links(read(t, p.korean)) {
			page := filepath.Join(filepath.Dir(p.korean), to)
			i := slices.IndexFunc(pairs(t), func(other pair) bool { return other.english == page })
			if i >= 0 && page != p.english {
				t.Errorf("%s has a link to %s: it has a Korean page, %s", p.korean, to, pairs(t)[i].korean)
			}
		}
	}
}

// part is what the languages must have in common: a heading, a paragraph, an item of a list, a row of a table, or a block of commands.
type part struct {
	kind, text string
	line       int
}

// parts cuts a page up.
func parts(text string) (all []part) {
	add := func(kind, text string, line int) { all = append(all, part{kind, text, line}) }
	inFence := false
	add("start", "", 1)
	for i, line := range strings.Split(text, "\n") {
		last := &all[len(all)-1]
		switch {
		case inFence:
			if inFence = line != "```"; inFence {
				last.text += command(line)
			}
		case strings.HasPrefix(line, "```"):
			inFence = true
			add(line, "", i+1)
		case strings.HasPrefix(line, "#"):
			add(heading.FindString(line), line, i+1)
		case strings.HasPrefix(line, "| "):
			add("row", line, i+1)
		case item.MatchString(line):
			add("item", line, i+1)
		case line == "", strings.HasPrefix(line, "<!--"): // comments say where the English page is made from
			add("paragraph", "", i+2)
		default:
			last.text += "\n" + line
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return p.kind == "paragraph" && p.text == "" })
}

// command is a line of a block of commands without the comment at its end, which is translated.
func command(line string) string {
	line, _, _ = strings.Cut(line, " #")
	return strings.TrimRight(line, " ") + "\n"
}

var (
	heading = regexp.MustCompile(`^#+`)
	item    = regexp.MustCompile(`^(?:-|\d+\.) `)
	code    = regexp.MustCompile("`[^`]+`")
	// fixed is what both languages write alike outside of code, too: flags, paths, kernel options, figures.
	fixed = regexp.MustCompile(`--[a-z][a-z-]+|/(?:etc|proc|sys|var|run|usr|opt)/[\w./-]*\w|[A-Z]+_[A-Z_]+|\d+(?:[.,/:]\d+)*`)
)

// A change of an English page that is missing in the Korean one shows in the order of its parts, in what stands in code, or in a figure.
func TestKoreanFollowsEnglish(t *testing.T) {
	for _, p := range pairs(t) {
		english, korean := parts(read(t, p.english)), parts(read(t, p.korean))
		for i, e := range english {
			if i >= len(korean) || korean[i].kind != e.kind {
				t.Errorf("%s:%d: part %d, %q, is missing or another in %s", p.english, e.line, i, e.kind, p.korean)
				break
			}
			compare(t, p, e, korean[i])
		}
		if len(korean) > len(english) {
			t.Errorf("%s:%d: there is nothing like that in %s", p.korean, korean[len(english)].line, p.english)
		}
	}
}

func compare(t *testing.T, p pair, english, korean part) {
	t.Helper()
	if strings.HasPrefix(english.kind, "```") && english.kind != "```yaml" && english.text != korean.text {
		t.Errorf("%s:%d has the commands\n%s%s:%d has\n%s", p.english, english.line, english.text, p.korean, korean.line, korean.text)
	}
	for _, kind := range []*regexp.Regexp{code, fixed} {
		for _, missing := range lacks(kind, english.text, korean.text) {
			t.Errorf("%s:%d says %s, %s:%d does not", p.english, english.line, missing, p.korean, korean.line)
		}
	}
	// The other way around only code: English writes many a figure as a word.
	for _, more := range lacks(code, korean.text, english.text) {
		t.Errorf("%s:%d says %s, %s:%d does not", p.korean, korean.line, more, p.english, english.line)
	}
}

// lacks returns what the first text has of a kind, and the second has less often.
func lacks(kind *regexp.Regexp, text, other string) (missing []string) {
	there := kind.FindAllString(other, -1)
	for _, word := range kind.FindAllString(text, -1) {
		if i := slices.Index(there, word); i >= 0 {
			there = slices.Delete(there, i, i+1)
		} else {
			missing = append(missing, word)
		}
	}
	return missing
}
