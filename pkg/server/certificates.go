package server

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/controlplane"
	"github.com/labk/labk/pkg/kubeconfig"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/process"
)

// lookEvery is how often a server looks whether a certificate is due, at the latest. It is no timer for the day itself: a PC that sleeps would miss that.
const lookEvery = time.Hour

// longest is for how long a server runs without a fresh start: the API server makes a certificate for its connections to itself, in memory, that lasts three years.
const longest = 2 * 365 * 24 * time.Hour

// leaf is a certificate of this server, and the kubeconfig that it is for, if any.
type leaf struct {
	pki.Leaf
	authority string
	// kubeconfig has the certificate's path, so that who uses it follows its renewal, or with embedded its content.
	kubeconfig string
	mode       fs.FileMode
	embedded   bool
}

// leaves are all certificates that this server issues to itself.
func (i *identity) leaves() ([]leaf, error) {
	mode, err := strconv.ParseUint(i.cfg.WriteKubeconfigMode, 8, 32)
	if err != nil {
		return nil, err
	}
	return []leaf{
		{Leaf: pki.Leaf{Name: "kube-apiserver", CommonName: "kube-apiserver", DNSNames: i.apiNames(), IPs: i.apiAddresses()}, authority: pki.ServerCA},
		{Leaf: pki.Leaf{Name: "kube-apiserver-proxy", CommonName: controlplane.ProxyClientName}, authority: pki.RequestHeaderCA},
		{Leaf: pki.Leaf{Name: "kube-apiserver-kubelet", CommonName: "labk:kube-apiserver"}, authority: pki.ClientCA},
		{Leaf: pki.Leaf{Name: "kube-controller-manager", CommonName: "system:kube-controller-manager"}, authority: pki.ClientCA, kubeconfig: i.credentials.ControllerManager, mode: 0o600},
		{Leaf: pki.Leaf{Name: "kube-scheduler", CommonName: "system:kube-scheduler"}, authority: pki.ClientCA, kubeconfig: i.credentials.Scheduler, mode: 0o600},
		{Leaf: pki.Leaf{Name: "system", CommonName: "labk:system", Organization: []string{"system:masters"}}, authority: pki.ClientCA, kubeconfig: i.credentials.System, mode: 0o600},
		// Not system:masters: a right that is bound can also be taken away again.
		{
			Leaf: pki.Leaf{Name: "admin", CommonName: "admin", Organization: []string{"labk:cluster-admins"}}, authority: pki.ClientCA,
			kubeconfig: i.cfg.WriteKubeconfig, mode: fs.FileMode(mode), embedded: true,
		},
	}, nil
}

// renew issues the leaves that are missing or due, or all, while the server runs, and names those that it has issued. Upstream's components see new files by themselves.
func (i *identity) renew(all bool) (issued []string, err error) {
	err = i.locked(func(*pki.Store) (err error) {
		issued, err = i.issue(all, false)
		return err
	})
	return issued, err
}

// issue is renew for who holds the lock. A start, which may have other options, writes every kubeconfig; afterwards the administrator's may be changed by who uses it, and
// is written when it lacks the certificate.
func (i *identity) issue(all, start bool) (issued []string, err error) {
	leaves, err := i.leaves()
	if err != nil {
		return nil, err
	}
	for _, l := range leaves {
		ca, err := i.store.CA(l.authority)
		if err != nil {
			return issued, err
		}
		pair, done, err := ca.Issue(l.Leaf, all)
		if err != nil {
			return issued, err
		}
		if l.kubeconfig != "" && (start || !l.embedded || !kubeconfig.Holds(l.kubeconfig, pair.Cert)) {
			o := kubeconfig.Options{
				Server: controlplane.URL(i.cfg), CA: i.credentials.TrustedServers, Cert: pair.Cert, Key: pair.Key, Mode: l.mode, ByPath: !l.embedded,
			}
			if err := kubeconfig.Write(l.kubeconfig, o); err != nil {
				return issued, err
			}
		}
		if done {
			issued = append(issued, l.Name)
		}
	}
	return issued, nil
}

// renewal returns the component that renews certificates while the server runs, and sees a change of authorities to its end.
func (s *server) renewal() lifecycle.Component {
	return lifecycle.NewTask("renewal", func(ctx context.Context) error {
		began := time.Now().Round(0) // as clocks on walls count: a PC may sleep
		tick := time.NewTicker(min(lookEvery, s.id.store.LeafLife/20))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case reason := <-s.restart:
				return &process.RestartError{Reason: reason}
			case <-ctx.Done():
				return nil
			}
			issued, err := s.id.renew(false)
			if err != nil { // a full disk, say; there is time
				s.say("certificates could not be renewed, and will be tried again: %v", err)
			}
			if len(issued) > 0 {
				s.say("certificates renewed: %s", strings.Join(issued, ", "))
			}
			s.finishInTime(ctx)
			if time.Since(began) > longest {
				return &process.RestartError{Reason: "two years have passed: starting anew, as the API server's certificate for itself can only be renewed so"}
			}
		}
	}, nil)
}

// certificateRoutes answers `labk certificate`.
func (s *server) certificateRoutes(mux *http.ServeMux) {
	mux.HandleFunc("POST "+pki.RotateRoute, func(w http.ResponseWriter, _ *http.Request) {
		issued, err := s.id.renew(true)
		control.WriteJSON(w, pki.Rotated{Issued: issued}, err)
	})
	mux.HandleFunc("GET "+pki.RotateCARoute, func(w http.ResponseWriter, r *http.Request) {
		p, err := s.progress(r.Context())
		control.WriteJSON(w, p, err)
	})
	mux.HandleFunc("POST "+pki.RotateCARoute, func(w http.ResponseWriter, r *http.Request) {
		var change pki.Change
		err := json.NewDecoder(r.Body).Decode(&change)
		if err == nil {
			err = s.changeAuthorities(r.Context(), change)
		}
		control.WriteJSON(w, nil, err)
	})
}
