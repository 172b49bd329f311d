// Package storage tests every datastore that labk can run, through its etcd face: labk's own over SQLite, etcd in the process, and
// PostgreSQL and MariaDB behind kine. See docs/datastore.md.
package storage

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.FatalLevel) // kine logs each refused request
	if described := os.Getenv(placeVariable); described != "" {
		if err := serve(described); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	// Most of the time these tests wait for something, not for a processor.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}
