package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// record is kept beside each volume and snapshot, so that all plugins that see the store agree.
type record struct {
	ID string
	// Source: the snapshot that a volume was made from, the volume that a snapshot was taken of.
	Source  string
	Fs      string
	Size    int64
	Created time.Time
}

type kind string

const (
	volumes   kind = "volumes"
	snapshots kind = "snapshots"
	// frozen holds an empty file for each volume that is frozen now, in case the driver dies meanwhile.
	frozen kind = "frozen"
)

type store struct{ folder string }

func openStore(folder string) (store, error) {
	for _, k := range []kind{volumes, snapshots, frozen} {
		if err := os.MkdirAll(filepath.Join(folder, string(k)), 0o700); err != nil {
			return store{}, err
		}
	}
	return store{folder}, nil
}

// path of the image file.
func (s store) path(k kind, id string) string { return filepath.Join(s.folder, string(k), id) }

func (s store) load(k kind, id string) (*record, error) {
	text, err := os.ReadFile(s.path(k, id) + ".json")
	if err != nil {
		return nil, err
	}
	r := &record{}
	return r, json.Unmarshal(text, r)
}

// save makes a volume or snapshot exist: its image is complete by then.
func (s store) save(k kind, r *record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := s.path(k, r.ID) + ".json"
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func (s store) remove(k kind, id string) error {
	for _, name := range []string{s.path(k, id) + ".json", s.path(k, id)} {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// lock excludes all other plugins, on all nodes: two loop devices on one image would destroy it.
func (s store) lock() (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(s.folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, err
	}
	return func() { _ = file.Close() }, nil
}
