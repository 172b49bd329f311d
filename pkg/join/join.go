// Package join makes a PC a node of a cluster, by Kubernetes' own means: a bootstrap token, certificate signing requests, a ConfigMap with what nodes
// must know. This package is the joining PC's side and what both sides call things; registrar is the server's.
//
// A PC gets three certificates. The machine certificate says which PC it is; it is requested with the token, lives as long as the CA, and can do nothing but
// request the other two and its own successor: so a PC that was off until those had expired is still known. The kubelet's client and serving certificates are requested
// here at first and rotated by the kubelet itself. When the cluster's authorities change, each agent notices (NewFollower), starts anew, and gets all three from the new ones.
package join

// Names that both sides use.
const (
	// MachineSigner signs machine certificates.
	MachineSigner = "labk.io/machine"
	// MachineUser and MachineGroup are the subject of a machine certificate: MachineUser and the node's name, and the group.
	MachineUser  = "labk:machine:"
	MachineGroup = "labk:machines"
	// NodeUser and NodeGroup are those of a node, as Kubernetes has them.
	NodeUser  = "system:node:"
	NodeGroup = "system:nodes"
	// TokenGroup is the group of whoever comes with a join token.
	TokenGroup = "system:bootstrappers:labk"

	// AnnotationMachine on a request tells which PC it is from (Machine, as JSON), AnnotationAddress the node's address.
	AnnotationMachine = "labk.io/machine"
	AnnotationAddress = "labk.io/address"

	// Namespace of what nodes share.
	Namespace = "kube-system"
	// ClusterConfigMap holds what nodes must know: the shared options (config.Config.Shared) and the keys below.
	ClusterConfigMap = "labk-cluster"
	// KeyServerCA and KeyClientCA are PEM: the authority that signs now, and while it is being changed the one of before after it.
	KeyServerCA = "server-ca.crt"
	KeyClientCA = "client-ca.crt"
	KeyVersion  = "kubernetes-version"
)

// Why a request is denied: the reason of its Denied condition.
const (
	// ReasonStillReady: the name is this PC's own from before, and its node is still Ready. Ask again.
	ReasonStillReady = "StillReady"
	// ReasonAddressTaken: the address is that of another node that is still Ready: perhaps this PC's own under another name. Ask again.
	ReasonAddressTaken = "AddressTaken"
	// ReasonNameTaken: the node is another PC's.
	ReasonNameTaken = "NameTaken"
	// ReasonTokenUsedUp: the token has let in as many PCs as it may.
	ReasonTokenUsedUp = "TokenUsedUp"
	// ReasonReplaced: this PC's node was given to another PC.
	ReasonReplaced = "Replaced"
	// ReasonForbidden: the request asks for something that it may not.
	ReasonForbidden = "Forbidden"
)
