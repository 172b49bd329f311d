package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/containerd/console"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/lab/cluster"
)

// labKubectl becomes kubectl in the network of the server's host; files, folders and the terminal are this PC's.
func labKubectl(c *cli.Context) error {
	opened, err := openLab(c)
	if err != nil {
		return err
	}
	kubeconfig, err := opened.Kubeconfig()
	if err != nil {
		return err
	}
	argv := append([]string{"kubectl"}, c.Args().Slice()...)
	env := append(os.Environ(), "KUBECONFIG="+kubeconfig)
	return opened.Server().Host.Net().Do(func() error {
		return fmt.Errorf("run kubectl: %w", unix.Exec("/proc/self/exe", argv, env))
	})
}

// labExec runs a command in a host. It ends with the command's exit code, or 128 and the signal that ended it, as a shell would.
func labExec(c *cli.Context) error {
	argv := c.Args().Tail()
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return usageError{errors.New("which command in which host? see `labk lab exec --help`")}
	}
	return withNode(c, func(c *cli.Context, n *cluster.Node) error {
		run := runPiped
		if term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) {
			run = runOnTerminal
		}
		err := run(c.Context, n.Host, argv)
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			return err
		}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return cli.Exit("", 128+int(status.Signal()))
		}
		return cli.Exit("", exit.ExitCode())
	})
}

// runPiped runs a command with the caller's own input and output. An interrupt or SIGTERM to the caller becomes a SIGTERM to it.
func runPiped(ctx context.Context, h *lab.Host, argv []string) error {
	cmd := h.Command(ctx, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 0 // as long as it needs
	return cmd.Run()
}

// runOnTerminal gives a command a terminal of its own, which does what the caller's does: also an interrupt is only a key there.
func runOnTerminal(ctx context.Context, h *lab.Host, argv []string) error {
	outer, err := console.ConsoleFromFile(os.Stdin)
	if err != nil {
		return err
	}
	inner, path, err := console.NewPty()
	if err != nil {
		return fmt.Errorf("make a terminal: %w", err)
	}
	defer inner.Close()
	tty, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("make a terminal: %w", err)
	}
	defer tty.Close()
	_ = inner.ResizeFrom(outer) // a terminal without a size is one, too
	cmd := h.Command(ctx, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	tty.Close() // the command's alone: when it is closed there, reading ends here
	if err := outer.SetRaw(); err != nil {
		return err
	}
	defer outer.Reset()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	shown := make(chan struct{})
	go func() { defer close(shown); _, _ = io.Copy(os.Stdout, inner) }()
	go func() { _, _ = io.Copy(inner, os.Stdin) }() // ends with the process
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-resized:
			_ = inner.ResizeFrom(outer)
		case err := <-ended:
			<-shown
			return err
		}
	}
}
