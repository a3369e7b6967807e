package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ioctls of <linux/loop.h> and <linux/fs.h> that golang.org/x/sys does not name everywhere.
const (
	loopMajor = 7
	fiFreeze  = 0xC0045877
	fiThaw    = 0xC0045878
	// A freeze that outlives its copy would hang the database for good.
	freezeLimit = 20 * time.Second
	// Other programs take loop numbers too.
	attachAttempts = 20
)

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// attached finds the loop device of an image, whichever node attached it: they share the kernel. Nodes see the image under
// different paths, but its name is unique.
func attached(image string) (device string, found bool) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		backing, _ := os.ReadFile(file)
		if filepath.Base(strings.TrimSpace(string(backing))) == filepath.Base(image) {
			return "/dev/" + strings.Split(file, "/")[3], true
		}
	}
	return "", false
}

// attach gives the image a loop device. Call with the store locked.
func attach(image string) (string, error) {
	if device, found := attached(image); found {
		return device, makeNode(device)
	}
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer control.Close()
	for range attachAttempts {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", err
		}
		device := fmt.Sprintf("/dev/loop%d", number)
		if err := makeNode(device); err != nil {
			return "", err
		}
		err = loop(device, unix.LOOP_SET_FD, int(file.Fd()))
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return device, err
		}
	}
	return "", errors.New("no free loop device")
}

// makeNode: a container's /dev lacks the devices that were made after it started.
func makeNode(device string) error {
	var number int
	if _, err := fmt.Sscanf(device, "/dev/loop%d", &number); err != nil {
		return err
	}
	err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(number))))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func loop(device string, request uint, value int) error {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.IoctlSetInt(int(file.Fd()), request, value)
}

// detach frees the loop device, with its last mount if there still is one.
func detach(image string) {
	if device, found := attached(image); found && makeNode(device) == nil {
		if err := loop(device, unix.LOOP_CLR_FD, 0); err != nil {
			log.Printf("detaching %s: %v", device, err)
		}
	}
}

func mountedAt(path string) bool {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(table), " "+path+" ")
}

func mountDevice(device, fs, target string) error {
	options := ""
	if fs == "xfs" {
		options = "nouuid" // a volume made from a snapshot has its source's UUID
	}
	if err := unix.Mount(device, target, fs, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mounting %s at %s: %w", device, target, err)
	}
	return nil
}

// growFs makes the file system as large as its image.
func growFs(device, fs, mountpoint string) error {
	if err := loop(device, unix.LOOP_SET_CAPACITY, 0); err != nil {
		return err
	}
	if fs == "xfs" {
		return run("xfs_growfs", mountpoint)
	}
	return run("resize2fs", device)
}

// whileFrozen runs copy while nothing can be written to the volume, if it is mounted anywhere: the same device mounted
// here is the same file system, so freezing it here freezes it there.
func (s store) whileFrozen(r *record, copy func() error) error {
	device, found := attached(s.path(volumes, r.ID))
	if !found {
		return copy()
	}
	if err := makeNode(device); err != nil {
		return err
	}
	target, err := os.MkdirTemp("", "freeze")
	if err != nil {
		return err
	}
	defer os.Remove(target)
	if err := mountDevice(device, r.Fs, target); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(target, unix.MNT_DETACH) }()
	folder, err := os.Open(target)
	if err != nil {
		return err
	}
	defer folder.Close()
	marker := s.path(frozen, r.ID)
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(int(folder.Fd()), fiFreeze, 0); err != nil {
		return fmt.Errorf("freezing: %w", err)
	}
	limit := time.AfterFunc(freezeLimit, func() { log.Fatalf("copying %s takes too long", r.ID) }) // thawed at the next start
	err = copy()
	limit.Stop()
	if thawed := unix.IoctlSetInt(int(folder.Fd()), fiThaw, 0); thawed != nil {
		log.Fatalf("thawing %s: %v", r.ID, thawed)
	}
	_ = os.Remove(marker)
	return err
}

// thawLeftovers undoes freezes that a driver left behind when it died.
func (d *driver) thawLeftovers() {
	markers, _ := os.ReadDir(filepath.Join(d.store.folder, string(frozen)))
	for _, marker := range markers {
		id := marker.Name()
		if device, found := attached(d.store.path(volumes, id)); found && makeNode(device) == nil {
			if r, err := d.store.load(volumes, id); err == nil {
				d.store.thaw(device, r.Fs)
			}
		}
		_ = os.Remove(d.store.path(frozen, id))
	}
}

func (store) thaw(device, fs string) {
	target, err := os.MkdirTemp("", "thaw")
	if err != nil {
		return
	}
	defer os.Remove(target)
	if err := mountDevice(device, fs, target); err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = unix.Unmount(target, unix.MNT_DETACH) }()
	if folder, err := os.Open(target); err == nil {
		_ = unix.IoctlSetInt(int(folder.Fd()), fiThaw, 0)
		_ = folder.Close()
	}
}

// copyImage copies a file as a clone where the store can do that, else piece by piece without its holes.
func copyImage(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	if unix.IoctlFileClone(int(target.Fd()), int(source.Fd())) == nil {
		return nil
	}
	info, err := source.Stat()
	if err != nil {
		return err
	}
	if err := target.Truncate(info.Size()); err != nil {
		return err
	}
	for end := int64(0); ; {
		start, err := unix.Seek(int(source.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		if end, err = unix.Seek(int(source.Fd()), start, unix.SEEK_HOLE); err != nil {
			return err
		}
		for at, to := start, start; at < end; {
			n, err := unix.CopyFileRange(int(source.Fd()), &at, int(target.Fd()), &to, int(end-at), 0)
			if err != nil {
				return err
			}
			if n == 0 {
				return errors.New("the image became shorter")
			}
		}
	}
}
