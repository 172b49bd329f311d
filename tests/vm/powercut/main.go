// Command powercut cuts the power of a whole virtual machine with a labk server in it, again and again, while clients write ConfigMaps through the API, and looks after each boot whether all that was
// acknowledged is there. scripts/test-vm.sh powercut starts it, in network and mount namespaces of its own; its arguments after the flags are QEMU's command line, to which it adds the disk of /var/lib/labk.
//
// That disk is a file on a tests/powercut disk: what the guest flushes, QEMU syncs. To cut the power is to kill QEMU and to let that disk lose what was not synced.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/labk/labk/tests/powercut"
)

// drive is a kind of disk: QEMU's cache mode for it, and what it loses with the power.
type drive struct {
	cache string
	loss  powercut.Loss
	lies  bool // it says that it flushed and does not
}

var drives = map[string]drive{
	"page":  {cache: "writethrough", loss: powercut.All},       // no cache of its own: only what the guest had not sent is lost
	"drive": {cache: "writeback", loss: powercut.All},          // all that was not flushed is lost
	"torn":  {cache: "writeback", loss: powercut.Some},         // of that, some is there, out of order, and some in part
	"liar":  {cache: "unsafe", loss: powercut.All, lies: true}, // to see that the test can fail
}

func main() {
	runtime.LockOSThread() // QEMU ends with the thread that started it
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	}
}

func run() error {
	kind := flag.String("drive", "drive", "the `kind` of disk: page, drive, torn or liar")
	cuts := flag.Int("cuts", 5, "how often to cut the power under load")
	seed := flag.Uint64("seed", 1, "decides on the moments of cuts, and on what is left of writes")
	limit := flag.Duration("limit", 10*time.Minute, "the longest that a boot may take")
	flag.Parse()
	klog.SetLogger(logr.Discard()) // client-go's: that a connection broke
	d, ok := drives[*kind]
	if !ok || *cuts < 1 || flag.NArg() == 0 {
		return errors.New("usage: powercut [-drive page|drive|torn|liar] [-cuts N] [-seed N] [-limit DURATION] QEMU [ARGUMENT ...]")
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("switch lo on: %w: %s", err, out)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	m, err := newMachine(d, flag.Args(), *seed, *limit)
	if err != nil {
		return err
	}
	t := &trial{machine: m, ledger: newLedger(), random: rand.New(rand.NewPCG(*seed, 1)), kind: *kind}
	return errors.Join(t.run(ctx, *cuts), m.off())
}

// trial is one machine with one disk, and all that its API acknowledged.
type trial struct {
	*machine
	*ledger
	random *rand.Rand
	kind   string
	cut    powercut.Lost // by all cuts
	boots  int           // that were cut themselves
}

func (t *trial) run(ctx context.Context, cuts int) error {
	config, err := t.boot(ctx)
	for i := 1; err == nil && i <= cuts; i++ {
		before, synced := t.acked(), t.disk.Syncs()
		t.load(ctx, config, t.random)
		if i%3 == 0 { // the next boot meets the same fate
			if err = t.lose(); err == nil {
				err = t.bootHalf(ctx)
			}
		}
		if err == nil {
			err = t.lose()
		}
		if err == nil {
			config, err = t.boot(ctx)
		}
		if err == nil {
			fmt.Printf("%s, cut %d: %d acknowledged writes, %d syncs; all cuts: %v; %v\n", t.kind, i, t.acked()-before, t.disk.Syncs()-synced, t.cut, t.state())
		}
	}
	if err != nil {
		return err
	}
	fmt.Printf("powercut: %s, %d cuts under load and %d while booting (%v), %d acknowledged writes: %v\n", t.kind, cuts, t.boots, t.cut, t.acked(), t.state())
	switch {
	case t.lies && !t.spoiled():
		return errors.New("a drive that lies lost nothing: this test would see no loss")
	case !t.lies && t.spoiled():
		return errors.New("not all is there that was acknowledged")
	}
	return nil
}

// load has clients write until the power is cut at some moment.
func (t *trial) load(ctx context.Context, config *rest.Config, random *rand.Rand) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := t.writeAll(ctx, config, random)
	t.cutPower(ctx, 2*time.Second, 10*time.Second)
	cancel()
	<-done
}

// lose switches off and lets the disk forget.
func (t *trial) lose() error {
	if err := t.off(); err != nil {
		return err
	}
	t.cut.Add(t.disk.Cut(t.drive.loss))
	return nil
}

// boot switches the machine on, waits for its API and compares.
func (t *trial) boot(ctx context.Context) (*rest.Config, error) {
	config, err := t.on(ctx)
	if err != nil {
		return nil, err
	}
	return config, t.verify(ctx, config)
}

// bootHalf switches the machine on and its power off in the middle of the start.
func (t *trial) bootHalf(ctx context.Context) error {
	t.boots++
	if err := t.start(); err != nil {
		return err
	}
	t.cutPower(ctx, 10*time.Second, 40*time.Second) // the first look at the disk is after about ten
	return nil
}

// cutPower waits for some moment, and then for one of the next things that the disk has to do, or for a flush: the power fails before that.
func (t *trial) cutPower(ctx context.Context, least, most time.Duration) {
	const idle = 3 * time.Second // a disk that has nothing to do is cut, too
	select {
	case <-time.After(least + time.Duration(t.random.Int64N(int64(most-least)))):
	case <-ctx.Done():
	}
	var cut <-chan struct{}
	if t.random.IntN(2) == 0 {
		cut = t.disk.CutAtSync()
	} else {
		cut = t.disk.CutAt(1 + t.random.IntN(20))
	}
	select {
	case <-cut:
	case <-time.After(idle):
	case <-ctx.Done():
	}
	t.kill()
	t.disk.Killed()
}
