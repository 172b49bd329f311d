package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// writers are the clients that write at once, each on a connection of its own.
const writers = 8

// value is what a ConfigMap holds; the zero value says that there is none.
type value struct {
	text     string
	revision int64
}

// ledger has what the API acknowledged. It lives outside of the machine.
type ledger struct {
	mu sync.Mutex
	// known has by name what was acknowledged since the last comparison, and before that what was found then.
	known map[string][]value
	// open has the changes that were not answered: the text that the name would have.
	open  map[string]string
	given map[int64]string // each resourceVersion, and what it was given out for
	last  int64            // the highest of them
	next  int

	writes, lost, twice, wrong int
}

func newLedger() *ledger {
	return &ledger{known: map[string][]value{}, open: map[string]string{}, given: map[int64]string{}}
}

func (l *ledger) acked() int { l.mu.Lock(); defer l.mu.Unlock(); return l.writes }

func (l *ledger) spoiled() bool { return l.lost+l.twice+l.wrong > 0 }

// state says what was found so far.
func (l *ledger) state() string {
	return fmt.Sprintf("%d lost, %d resourceVersions given twice or gone back, %d otherwise wrong", l.lost, l.twice, l.wrong)
}

// writeAll has the clients write until their requests are not answered any more; the channel is closed then.
func (l *ledger) writeAll(ctx context.Context, config *rest.Config, random *rand.Rand) <-chan struct{} {
	var all sync.WaitGroup
	for w := range writers {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		all.Go(func() {
			client, err := kubernetes.NewForConfig(alone(config))
			var names []string
			for err == nil {
				names, err = l.write(ctx, client.CoreV1().ConfigMaps("default"), w, names, random)
			}
			if status := apierrors.APIStatus(nil); errors.As(err, &status) {
				fmt.Println("  refused:", err)
			}
		})
	}
	done := make(chan struct{})
	go func() { defer close(done); all.Wait() }()
	return done
}

// write does one change: it creates, or updates or deletes one of names, those that this writer has created.
func (l *ledger) write(ctx context.Context, client typed.ConfigMapInterface, writer int, names []string, random *rand.Rand) ([]string, error) {
	pick, what := -1, random.IntN(10)
	if what < 4 && len(names) > 0 {
		pick = random.IntN(len(names))
	}
	l.mu.Lock()
	l.next++
	name, text := fmt.Sprintf("writer-%d-%d", writer, l.next), fmt.Sprint(l.next, strings.Repeat(".", random.IntN(1000)))
	var old value
	if pick >= 0 {
		name = names[pick]
		old = l.known[name][len(l.known[name])-1]
		if what == 0 {
			text = ""
		}
	}
	l.open[name] = text
	l.mu.Unlock()

	version := strconv.FormatInt(old.revision, 10)
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"text": text}}
	var err error
	switch {
	case text == "":
		names = slices.Delete(names, pick, pick+1)
		err = client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	case pick < 0:
		names = append(names, name)
		m, err = client.Create(ctx, m, metav1.CreateOptions{})
	default:
		m.ResourceVersion = version
		m, err = client.Update(ctx, m, metav1.UpdateOptions{})
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), apierrors.IsAlreadyExists(err):
		l.wrong++ // nobody else writes to this name
		return names, err
	case err != nil:
		return names, err
	}
	l.writes++
	delete(l.open, name)
	now := value{}
	if text != "" {
		now = value{text, l.revision(m)}
	}
	l.known[name] = append(l.known[name], now)
	return names, nil
}

// revision reads an object's resourceVersion, which must not have been another's. It is called with the lock held.
func (l *ledger) revision(m *corev1.ConfigMap) int64 {
	n, err := strconv.ParseInt(m.ResourceVersion, 10, 64)
	what := m.Name + "=" + m.Data["text"]
	if given, ok := l.given[n]; err != nil || ok && given != what {
		l.twice++
		fmt.Printf("  resourceVersion %s was given out for %.40s and for %.40s\n", m.ResourceVersion, given, what)
	}
	l.given[n], l.last = what, max(l.last, n)
	return n
}

// verify compares what there is with what was acknowledged, and begins anew from there.
func (l *ledger) verify(ctx context.Context, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(alone(config))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	list, err := client.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list what there is: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, err := strconv.ParseInt(list.ResourceVersion, 10, 64); err != nil || at < l.last {
		l.twice++
		fmt.Printf("  the list's resourceVersion is %q, and %d was given out\n", list.ResourceVersion, l.last)
	}
	there := map[string]value{}
	for i := range list.Items {
		if m := &list.Items[i]; strings.HasPrefix(m.Name, "writer-") {
			there[m.Name] = value{m.Data["text"], l.revision(m)}
		}
	}
	l.compare(there)
	return nil
}

func (l *ledger) compare(there map[string]value) {
	const most = 5 // examples
	examples := 0
	for name, known := range l.known {
		if text, open := l.open[name]; open && there[name].text == text {
			continue
		}
		if found := slices.Index(known, there[name]); found < len(known)-1 {
			l.lost += len(known) - 1 - found
			if examples++; examples > most {
				continue
			}
			fmt.Printf("  %s is %.20q of %d, and was acknowledged as %.20q of %d\n", name, there[name].text, there[name].revision, known[len(known)-1].text, known[len(known)-1].revision)
		}
	}
	for name, now := range there {
		text, open := l.open[name]
		if _, known := l.known[name]; !known && (!open || text != now.text) {
			l.wrong++
			fmt.Printf("  %s is %.20q, which nobody wrote\n", name, now.text)
		}
	}
	l.known, l.open = map[string][]value{}, map[string]string{}
	for name, now := range there {
		l.known[name] = []value{now}
	}
}

func dialer() *net.Dialer { return &net.Dialer{Timeout: 20 * time.Second} }
