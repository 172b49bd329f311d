package storage

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// keyState is one of the states that a key may be in. A change whose answer was lost leaves two: made, and not made.
type keyState struct {
	now version
	// floor is the highest revision known to be of an earlier change of the key; later ones are above it.
	floor int64
}

// keyModel says what a datastore may answer about one key: it behaves as if one operation were done after the other, each at a moment between call and answer.
func keyModel() porcupine.Model {
	model := porcupine.NondeterministicModel{
		Partition: byKey,
		Init:      func() []interface{} { return []interface{}{keyState{}} },
		Step: func(state, input, output interface{}) []interface{} {
			var next []interface{}
			for _, s := range state.(keyState).after(input.(call), output.(answer)) {
				next = append(next, s)
			}
			return next
		},
		DescribeOperation: func(input, output interface{}) string { return fmt.Sprintf("%+v -> %+v", input, output) },
		DescribeState:     func(state interface{}) string { return fmt.Sprintf("%+v", state) },
	}
	return model.ToModel()
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := map[string][]porcupine.Operation{}
	for _, o := range history {
		key := o.Input.(call).key
		keys[key] = append(keys[key], o)
	}
	parts := make([][]porcupine.Operation, 0, len(keys))
	for _, part := range keys {
		parts = append(parts, part)
	}
	return parts
}

// after gives the states that the key may be in after a call with this answer; none if the answer is wrong.
func (s keyState) after(c call, a answer) []keyState {
	switch {
	case a.unknown:
		if made, ok := s.change(c, 0); ok {
			return []keyState{s, made}
		}
		return []keyState{s}
	case a.done:
		if made, ok := s.change(c, a.header); ok {
			return []keyState{made}
		}
		return nil
	}
	if _, ok := s.change(c, 0); ok && c.action != read && c.action != list {
		return nil // refused for no reason
	}
	if seen, ok := s.see(a.found); ok {
		return []keyState{seen}
	}
	return nil
}

// change is the state after a change that is made in this one, at a revision that may be unknown (0); not ok if it must be refused.
func (s keyState) change(c call, revision int64) (_ keyState, ok bool) {
	if c.action == create {
		ok = s.now.value == ""
	} else {
		s, ok = s.see(c.want)
		ok = ok && c.want.value != ""
	}
	if !ok || revision != 0 && revision <= s.floor {
		return s, false
	}
	s.floor = max(s.floor, revision)
	s.now = version{c.value, revision}
	if c.action == remove {
		s.now = version{}
	}
	return s, true
}

// see is the state after a look at it that found this; not ok if the look can't have been at this state.
func (s keyState) see(found version) (_ keyState, ok bool) {
	switch {
	case found.value != s.now.value:
		return s, false
	case found.value == "" || s.now.revision == found.revision:
		return s, true
	case s.now.revision != 0 || found.revision <= s.floor:
		return s, false
	}
	s.now, s.floor = found, found.revision
	return s, true
}
