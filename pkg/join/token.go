package join

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"
)

// tokenPrefix begins every join token; the number is that of its format.
const tokenPrefix = "labk1-"

// Lengths of a bootstrap token's two parts, and the letters of both, as Kubernetes wants them.
const (
	idLength     = 6
	secretLength = 16
	letters      = "0123456789abcdefghijklmnopqrstuvwxyz"
)

// minPassphrase is the shortest passphrase that a token is made of.
const minPassphrase = 8

var (
	bootstrapForm = regexp.MustCompile(`^[a-z0-9]{6}\.[a-z0-9]{16}$`)
	hashForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Token is what a PC needs to join a cluster: the hash of the cluster's CA, by which the PC knows the right server before it says anything, and one
// of Kubernetes' bootstrap tokens, by which the server knows the PC. Written labk1-HASH-ID.SECRET.
type Token struct {
	// CAHash is the SHA-256 of the CA's public key (its DER SubjectPublicKeyInfo) in hexadecimal, as in kubeadm's discovery.
	CAHash string
	// ID is public, Secret is not.
	ID, Secret string
}

// ParseToken reads a token as it is written.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("it does not begin with %s, as those of `labk token create` do", tokenPrefix)
	}
	hash, bootstrap, ok := strings.Cut(rest, "-")
	if !ok || !hashForm.MatchString(hash) || !bootstrapForm.MatchString(bootstrap) {
		return Token{}, errors.New("it is not whole: a part is missing, or a character was lost or added")
	}
	id, secret, _ := strings.Cut(bootstrap, ".")
	return Token{CAHash: hash, ID: id, Secret: secret}, nil
}

// NewToken makes a token for the cluster of the CA with this hash.
func NewToken(caHash string) (Token, error) {
	id, err := randomText(idLength)
	if err != nil {
		return Token{}, err
	}
	secret, err := randomText(secretLength)
	if err != nil {
		return Token{}, err
	}
	return Token{CAHash: caHash, ID: id, Secret: secret}, nil
}

// TokenOf makes the token that a server was configured with: a whole one, a bootstrap token ID.SECRET, or a passphrase, of which always the same bootstrap token
// is made. The token names the CA with the hash; a whole one may have named one of the former CAs.
func TokenOf(configured, caHash string, former ...string) (Token, error) {
	configured = strings.TrimSpace(configured)
	switch {
	case strings.HasPrefix(configured, tokenPrefix):
		t, err := ParseToken(configured)
		if err == nil && t.CAHash != caHash && !slices.Contains(former, t.CAHash) {
			err = errors.New("it is of another cluster: the CA that it names is not this server's")
		}
		t.CAHash = caHash
		return t, err
	case bootstrapForm.MatchString(configured):
		id, secret, _ := strings.Cut(configured, ".")
		return Token{CAHash: caHash, ID: id, Secret: secret}, nil
	case len(configured) < minPassphrase:
		return Token{}, fmt.Errorf("it is too short: a passphrase has %d characters or more", minPassphrase)
	}
	mac := hmac.New(sha256.New, []byte("labk join token"))
	mac.Write([]byte(configured))
	number := new(big.Int).SetBytes(mac.Sum(nil))
	text := make([]byte, 0, idLength+secretLength)
	base, digit := big.NewInt(int64(len(letters))), new(big.Int)
	for range idLength + secretLength {
		number.DivMod(number, base, digit)
		text = append(text, letters[digit.Int64()])
	}
	return Token{CAHash: caHash, ID: string(text[:idLength]), Secret: string(text[idLength:])}, nil
}

// String is the token as it is written, with its secret: not for logs.
func (t Token) String() string { return tokenPrefix + t.CAHash + "-" + t.Bootstrap() }

// Bootstrap is the part that is the API's: ID.SECRET.
func (t Token) Bootstrap() string { return t.ID + "." + t.Secret }

// CAHash is the hash by which tokens name a CA.
func CAHash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// CAHashPEM is CAHash of the first certificate in PEM text.
func CAHashPEM(text []byte) (string, error) {
	all, err := parseCerts(text)
	if err != nil {
		return "", err
	}
	return CAHash(all[0]), nil
}

// CAHashes are those of all certificates in the files, each once; a file that is not there has none.
func CAHashes(files ...string) (hashes []string, err error) {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		certs, err := parseCerts(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range certs {
			if hash := CAHash(c); !slices.Contains(hashes, hash) {
				hashes = append(hashes, hash)
			}
		}
	}
	return hashes, nil
}

// parseCerts reads the certificates in PEM text, which are one or more.
func parseCerts(text []byte) (all []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return all, nil
}

func randomText(length int) (string, error) {
	out := make([]byte, length)
	for i := range out {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(letters))))
		if err != nil {
			return "", fmt.Errorf("make a random token: %w", err)
		}
		out[i] = letters[n.Int64()]
	}
	return string(out), nil
}
