package uninstall

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
)

// site is what is known of the labk of this PC.
type site struct {
	record     *install.Record // nil: never installed, only run
	units      []unit
	data       paths.Data // the folder itself, without links
	dataLink   string     // the link that leads there, if any
	kubeconfig string
	config     []string // the files of configuration that labk wrote
	// pods and services are the addresses of pods and services.
	pods, services netip.Prefix
	backend        string
	agentNode      string // the node's name, if this PC is an agent
}

// unit is a systemd unit or an OpenRC script that runs labk.
type unit struct {
	name, file string
	systemd    bool
	edited     bool // after labk wrote it
	gone       bool // the file; what it started may still run
	text       string
}

// findSite reads what there is. A configuration that cannot be read is no hindrance: the usual places are taken then.
func findSite(ctx context.Context, o Options) (*site, error) {
	record, err := install.Load()
	if err != nil {
		o.Say("what was installed cannot be read, the usual places are looked at: %v", err)
	}
	kept, err := install.LoadKept()
	if err != nil {
		o.Say("%v: the configuration stays", err)
	}
	s := &site{record: record, config: kept.Files()}
	if record != nil {
		s.config = append(slices.Clone(record.Config), s.config...)
		slices.Sort(s.config)
		s.config = slices.Compact(s.config)
	}
	s.findUnits()
	role := "server"
	if record != nil {
		role = record.Role
	}
	file, env, data := paths.ConfigFile, map[string]string{}, ""
	for _, u := range s.units {
		service := u.settings("/")
		maps.Copy(env, service.env)
		file, data = cmp.Or(service.config(), file), cmp.Or(service.dataDir(), data)
	}
	cfg, err := config.Load(config.Sources{File: file, Folder: paths.ConfigFolder, Env: func(key string) (string, bool) { v, ok := env[key]; return v, ok }, Role: role})
	if err != nil {
		o.Say("the configuration cannot be read, the usual places are looked at: %v", err)
	}
	data = cmp.Or(o.Data, dataInUse(ctx), data, cfg.DataDir)
	if err := s.setData(data, o.Data != ""); err != nil {
		return nil, err
	}
	s.kubeconfig, s.backend = cfg.WriteKubeconfig, cfg.FlannelBackend
	if exists(s.data.AgentTLS()) && !exists(s.data.ServerTLS()) {
		s.agentNode = cfg.NodeName
	}
	cidrs := [2]string{cfg.ClusterCIDR, cfg.ServiceCIDR}
	var shared map[string]string // an agent knows them from its server
	if text, err := os.ReadFile(s.data.ClusterOptions()); err == nil && json.Unmarshal(text, &shared) == nil && shared["cluster-cidr"] != "" {
		cidrs, s.backend = [2]string{shared["cluster-cidr"], shared["service-cidr"]}, shared["flannel-backend"]
	}
	// An invalid prefix contains nothing.
	s.pods, _ = netip.ParsePrefix(cidrs[0])
	s.services, _ = netip.ParsePrefix(cidrs[1])
	return s, nil
}

// setData refuses folders that cannot be labk's and, where a person named the folder, one that has nothing of labk's.
func (s *site) setData(dir string, named bool) error {
	clean := filepath.Clean(dir)
	if !filepath.IsAbs(clean) || strings.Count(clean, "/") < 2 || slices.Contains([]string{"/var/lib", "/usr/local", "/etc/labk"}, clean) {
		return fmt.Errorf("%s is no data folder of labk: name the right one with --data-dir", dir)
	}
	real, err := filepath.EvalSymlinks(clean)
	if err != nil { // gone, or never there
		s.data = paths.Data(clean)
		return nil
	}
	if real != clean {
		s.dataLink = clean
	}
	s.data = paths.Data(real)
	entries, err := os.ReadDir(real)
	if err != nil {
		return fmt.Errorf("look into the data folder: %w", err)
	}
	if named && len(entries) > 0 && len(ownData(s.data)) == 0 {
		return fmt.Errorf("%s does not look like a data folder of labk: name the right one with --data-dir", dir)
	}
	return nil
}

// findUnits looks for those of the record, and for those that a person put there.
func (s *site) findUnits() {
	sums := map[string]string{}
	if s.record != nil && s.record.Service != nil {
		for _, f := range s.record.Service.Files {
			sums[f.Path] = f.SHA256
		}
	}
	for _, name := range []string{"labk", "labk-agent"} {
		for _, u := range []unit{
			{name: name + ".service", file: "/etc/systemd/system/" + name + ".service", systemd: true},
			{name: name, file: "/etc/init.d/" + name},
		} {
			sum, noted := sums[u.file]
			text, err := os.ReadFile(u.file)
			if err != nil && !noted {
				continue
			}
			u.text, u.gone = string(text), errors.Is(err, fs.ErrNotExist)
			u.edited = noted && err == nil && sum != digest.Of(text)
			if noted || strings.Contains(u.text, "labk ") {
				s.units = append(s.units, u)
			}
		}
	}
}

// askTime is how long a labk that runs may take to say which data folder it uses.
const askTime = 5 * time.Second

// dataInUse is the data folder of the labk that runs, however it was told; empty if none answers.
func dataInUse(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	self, err := process.Running(ctx)
	if err != nil {
		return ""
	}
	return self.DataDir
}
