// Package powercut is a disk whose power can be cut, for tests: a file system in memory that keeps what was written apart from what was made
// to last by fsync. A cut takes away what was not, all of it or parts of it as chance has it, the same for the same seed.
//
// What a real disk with a real file system may do is all allowed:
//   - of a file that was written and not synced, any set of its 4 KiB blocks is there, in any order, some of them torn at 512 bytes;
//   - names (files made, renamed, removed, linked; folders too) and truncations that were not synced are there up to a point in time chosen by chance:
//     they get lost in order, as from a journal;
//   - a file's size is that of its last sync, or what its later blocks need.
//
// It does not lose what was synced, does not spoil what was not written to, and keeps owners, modes and times at once.
//
// Mount serves a disk to the kernel by FUSE, so that any program can be tried on it, in any mount namespace. The process that serves must not
// itself map the files of it into memory, or the two may wait for each other.
package powercut
