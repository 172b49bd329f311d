package storage

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

// lease grants one of some seconds.
func (s store) lease(seconds int64) kubernetes.PutOptions {
	s.t.Helper()
	got, err := s.Grant(s.ctx, seconds)
	if err != nil {
		s.t.Fatal(err)
	}
	return kubernetes.PutOptions{LeaseID: got.ID, GetOnFailure: true}
}

// gone waits until a key is not there, and fails the test if that is before its time.
func (s store) gone(key string, notBefore time.Time) {
	s.t.Helper()
	waitFor(s.ctx, s.t, key+" to expire", func() bool { return s.get(key, 0) == nil })
	if early := time.Until(notBefore); early > 0 {
		s.t.Errorf("%s expired %v too early", key, early)
	}
}

// TestLeases lets keys expire, with a kill of the process between, and looks after those that must not.
func TestLeases(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		p := b.place(t).spawn(t)
		client := connect(t, p.place.endpoint())
		s := newStore(t, client)
		f := follow(t, client, 1)

		begin := time.Now()
		s.put(prefix+"short", "x", 0, s.lease(2))
		s.put(prefix+"long", "x", 0, s.lease(3600))
		s.put(prefix+"plain", "x", 0)
		freed := s.put(prefix+"freed", "x", 0, s.lease(2))
		s.put(prefix+"freed", "y", freed) // by a change without a lease
		longer := s.put(prefix+"longer", "x", 0, s.lease(2))
		s.put(prefix+"longer", "y", longer, s.lease(3600))
		s.put(prefix+"across", "x", 0, s.lease(4))
		again := s.put(prefix+"again", "x", 0, s.lease(2))
		s.remove(prefix+"again", again)
		s.put(prefix+"again", "y", 0)

		s.gone(prefix+"short", begin.Add(2*time.Second))
		p.kill()
		p.start()
		s.gone(prefix+"across", begin.Add(4*time.Second))
		s.equal("what is left", s.keys(prefix), []string{prefix + "again", prefix + "freed", prefix + "long", prefix + "longer", prefix + "plain"})

		log := f.until(t, s.revision())
		var expired []string
		for _, e := range log {
			if e.value == "" && e.key != prefix+"again" {
				expired = append(expired, e.key)
			}
		}
		s.equal("the deletes that a watch told", expired, []string{prefix + "short", prefix + "across"})
		if kv := s.get(prefix+"long", 0); clientv3.LeaseID(kv.Lease) == clientv3.NoLease {
			t.Errorf("the lease is forgotten: %v", kv)
		}
	})
}
