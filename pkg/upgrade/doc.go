// Package upgrade replaces the labk of a PC by another one while pods go on running, and brings the old one back when the new one does not come up. Replace does that
// for one program and its service; PC adds what a server or an agent needs before and after, Back goes back later; Fleet takes a whole cluster, one PC after another.
package upgrade
