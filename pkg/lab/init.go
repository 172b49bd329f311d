package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

var errInitDied = errors.New("it ended before the host was up")

// reaper is what pid 1 of a host becomes: dash and bash reap adopted children while they wait. Signals from inside the host
// do not reach a pid 1 that has no handlers; SIGKILL from the machine does.
const reaper = "while :; do sleep 2147483 & wait; done"

// MaybeInit makes the process a host's init if that is what it was started as, and otherwise returns nil at once. Call it first
// thing in main or TestMain of a program whose labs have the default Options.InitCommand, and exit with 1 on an error:
//
//	if err := lab.MaybeInit(); err != nil {
//		fmt.Fprintln(os.Stderr, err)
//		os.Exit(1)
//	}
func MaybeInit() error {
	if os.Getenv(initEnv) == "" || os.Getpid() != 1 {
		return nil
	}
	return InitMain()
}

// InitMain is the whole work of a host's init, for a program that is started by Options.InitCommand. It only returns on failure;
// the process should then exit with 1.
func InitMain() error {
	if os.Getpid() != 1 || os.Getenv(initEnv) == "" {
		return errors.New("lab init: this command is only for the lab itself, which runs it in a new PID namespace")
	}
	runtime.LockOSThread() // namespaces, PR_SET_PDEATHSIG and the last exec belong to one thread
	// whatever else the owner has open is no business of the host's, and would keep the other ends of pipes waiting
	if err := unix.CloseRange(orderFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("lab init: mark open files: %w", err)
	}
	answer := os.NewFile(answerFD, "answer")
	err := initHost(os.NewFile(orderFD, "order"), answer)
	_, _ = fmt.Fprintln(answer, err)
	return err
}

func initHost(from io.Reader, answer io.Writer) error {
	// Before the order is read: a parent that dies earlier sends none, one that dies later sends the signal.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("lab init: bind to the owner: %w", err)
	}
	var order initOrder
	if err := json.NewDecoder(from).Decode(&order); err != nil {
		return fmt.Errorf("lab init: read the order: %w", err)
	}
	if err := order.makeHost(); err != nil {
		return fmt.Errorf("lab init: %w", err)
	}
	if !order.OwnerBound {
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("lab init: become independent of the owner: %w", err)
		}
	}
	if _, err := io.WriteString(answer, initReady); err != nil {
		return fmt.Errorf("lab init: report: %w", err)
	}
	if order.Systemd {
		return execSystemd()
	}
	return unix.Exec("/bin/sh", []string{order.Name, "-c", reaper}, []string{"PATH=" + hostPath(order.Root != "")})
}

func errOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
