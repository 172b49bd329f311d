// Package storage tests every datastore that labk can run, through its etcd face: labk's own over SQLite, etcd in the process, and
// PostgreSQL and MariaDB behind kine. See docs/datastore.md.
package storage

import (
	"flag"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Most of the time these tests wait for something, not for a processor.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	logrus.SetLevel(logrus.FatalLevel) // kine logs each refused request
	klog.SetLogger(logr.Discard())
	os.Exit(m.Run())
}
