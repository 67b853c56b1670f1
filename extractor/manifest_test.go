package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

const (
	sum     = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	another = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
)

func TestReadManifest(t *testing.T) {
	for _, version := range []string{"2", "3"} {
		got, err := readAny(write(t, `{"base":{"any":["thing"]},"executable":["a/b"],`+
			`"files":{"a":"","a/b":"`+sum+`","é\n":"`+another+`"},"links":{"a/l":"../../x"},"sizes":[1,9223372036854775807],"version":`+version+`}`))
		want := listing{
			".": {"a": {kind: fs.ModeDir}, "é\n": {sha256: another, size: 1<<63 - 1}},
			"a": {"b": {sha256: sum, size: 1, executable: true}, "l": {kind: fs.ModeSymlink, to: "../../x"}},
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("version %s: got %v, %v, want %v", version, got, err, want)
		}
	}
}

func TestReadManifestRejects(t *testing.T) {
	files := func(files string) string { return `{"files":{` + files + `},"sizes":[1],"version":3}` }
	dirs := func(files string) string { return `{"files":{` + files + `},"version":3}` }
	tests := map[string]struct{ data, problem string }{
		"not JSON":                     {`version 3`, "not canonical JSON: expected '{' at byte 0"},
		"empty file":                   {``, "expected '{' at byte 0"},
		"truncated":                    {`{"files":{`, "expected a string at byte 10"},
		"two documents":                {`{"version":3}{"version":3}`, "expected the end at byte 13"},
		"a list":                       {`[]`, "expected '{' at byte 0"},
		"not UTF-8":                    {dirs("\"\xff\":\"\""), "not UTF-8"},
		"no version":                   {`{"files":{}}`, "unsupported version 0: this extractor reads versions 2 and 3"},
		"version 1":                    {`{"files":[],"version":1}`, "unsupported version 1: this extractor reads versions 2 and 3"},
		"version 4":                    {`{"files":[],"version":4}`, "unsupported version 4: this extractor reads versions 2 and 3"},
		"a version as text":            {`{"version":"3"}`, "expected an integer at byte 11"},
		"two versions":                 {`{"version":4,"version":3}`, `expected a key after "version" at byte 13`},
		"files are a list":             {`{"files":[],"version":3}`, "expected '{' at byte 9"},
		"a file is a number":           {`{"files":{"a":1},"version":3}`, "expected a string at byte 14"},
		"links are null":               {`{"links":null,"version":3}`, "expected '{' at byte 9"},
		"negative size":                {`{"sizes":[-1],"version":3}`, "expected a value at byte 10"},
		"too few sizes":                {files(`"a":"` + sum + `","b":"` + sum + `"`), `"b" has no size`},
		"too many sizes":               {files(`"a":""`), "it has more sizes than files"},
		"short sum":                    {files(`"a":"abc0"`), `"a" has an invalid SHA-256: "abc0"`},
		"upper-case sum":               {files(`"a":"` + strings.ToUpper(sum) + `"`), `"a" has an invalid SHA-256`},
		"sum not in hex":               {files(`"a":"` + strings.Repeat("x", 64) + `"`), `"a" has an invalid SHA-256`},
		"empty path":                   {dirs(`"":""`), `"" is not a clean relative path`},
		"the top":                      {dirs(`".":""`), `"." is not a clean relative path`},
		"absolute path":                {files(`"/a":"` + sum + `"`), `"/a" is not a clean relative path`},
		"absolute link":                {`{"links":{"/a":"b"},"version":3}`, `"/a" is not a clean relative path`},
		"path that leads outside":      {files(`"../a":"` + sum + `"`), `"../a" is not a clean relative path`},
		"path with ..":                 {files(`"a":"","a/../b":"` + sum + `"`), `"a/../b" is not a clean relative path`},
		"path with two slashes":        {files(`"a":"","a//b":"` + sum + `"`), `"a//b" is not a clean relative path`},
		"path with a NUL":              {dirs(`"a\u0000":""`), `"a\x00" is not a clean relative path`},
		"path with a slash at the end": {dirs(`"a":"","a/":""`), `"a/" is not a clean relative path`},
		"no parent":                    {files(`"a/b":"` + sum + `"`), `"a/b" is listed but its directory is not`},
		"a file as parent":             {`{"files":{"a":"` + sum + `","a/b":"` + sum + `"},"sizes":[1,1],"version":3}`, `"a/b" is listed but its directory is not`},
		"a link as parent":             {`{"links":{"a":"b","a/b":"c"},"version":3}`, `"a/b" is listed but its directory is not`},
		"file twice":                   {files(`"a":"` + sum + `","a":"` + another + `"`), `expected a key after "a"`},
		"paths not sorted":             {dirs(`"b":"","a":""`), `expected a key after "b"`},
		"file and link":                {`{"files":{"a":""},"links":{"a":"b"},"version":3}`, `"a" is listed twice`},
		"executable missing path":      {`{"executable":["a"],"version":3}`, "it lists an executable that is not a file"},
		"executable directory":         {`{"executable":["a"],"files":{"a":""},"version":3}`, "it lists an executable that is not a file"},
		"executable link":              {`{"executable":["a"],"links":{"a":"b"},"version":3}`, "it lists an executable that is not a file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readAny(write(t, test.data))
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %v, %v, want %q", got, err, test.problem)
			}
		})
	}
}

// A manifest that is not a regular file could block the program, or never end.
func TestManifestIsNoFile(t *testing.T) {
	tests := map[string]struct {
		prepare func(file string) error
		problem string
	}{
		"missing":              {func(string) error { return nil }, "no such file or directory"},
		"a directory":          {func(file string) error { return os.Mkdir(file, 0o755) }, "not a regular file"},
		"a fifo":               {func(file string) error { return syscall.Mkfifo(file, 0o644) }, "not a regular file"},
		"a link to a device":   {func(file string) error { return os.Symlink("/dev/zero", file) }, "not a regular file"},
		"a link to itself":     {func(file string) error { return os.Symlink(file, file) }, "too many levels of symbolic links"},
		"a link to other text": {func(file string) error { return os.Symlink("/etc/passwd", file) }, "not canonical JSON"},
		"too large": {func(file string) error {
			return errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, maxManifest+1))
		}, "the file is too large"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "manifest.json")
			must(t, test.prepare(file))
			wantProblem(t, file, file, test.problem)
		})
	}
}

func TestDigest(t *testing.T) {
	const data = `{"version":3}`
	right := "sha256:" + digest(data)
	malformed := func(text string) string {
		return "KONTEXT_MANIFEST is " + text + ": expected sha256: and 64 lower-case hex digits"
	}
	tests := map[string]struct{ digest, problem string }{
		"unset":           {"", ""},
		"right":           {right, ""},
		"other":           {"sha256:" + sum, "the digest is " + right + ", but KONTEXT_MANIFEST is sha256:" + sum},
		"no algorithm":    {right[7:], malformed(`"` + right[7:] + `"`)},
		"other algorithm": {"sha512:" + right[7:], malformed(`"sha512:` + right[7:] + `"`)},
		"short":           {right[:70], malformed(`"` + right[:70] + `"`)},
		"long":            {right + "0", malformed(`"` + right + `0"`)},
		"upper case":      {"sha256:" + strings.ToUpper(right[7:]), malformed(`"sha256:` + strings.ToUpper(right[7:]) + `"`)},
		"space":           {" " + right, malformed(`" ` + right + `"`)},
		"control":         {"\x1b", malformed(`"\x1b"`)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := write(t, data)
			got := ""
			if _, err := readManifest(newPool(), file, test.digest); err != nil {
				got = err.Error()
			}
			want := ""
			if test.problem != "" {
				want = fmt.Sprintf("read manifest %q: %s", file, test.problem)
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestReadParts(t *testing.T) {
	const top = `"files":{"a":"","f":"` + sum + `"},"links":{"l":"a"}`
	whole := listing{
		".":   {"a": {kind: fs.ModeDir}, "f": {sha256: sum, size: 1}, "l": {kind: fs.ModeSymlink, to: "a"}},
		"a":   {"b": {kind: fs.ModeDir}},
		"a/b": {"x": {sha256: another, size: 1, executable: true}, "m": {kind: fs.ModeSymlink, to: "x"}},
	}
	tests := map[string]struct {
		top   string
		parts []string
		want  listing
	}{
		"no parts":   {top, nil, listing{".": whole["."], "a": {}}},
		"empty part": {top, []string{`{"files":{},"sizes":[],"executable":[],"links":{}}`}, listing{".": whole["."], "a": {}}},
		"nothing in the top": {`"files":{}`, []string{
			`{"files":{"a":"","f":"` + sum + `"},"links":{"l":"a"},"sizes":[1],"executable":[]}`}, listing{".": whole["."], "a": {}}},
		"one part": {top, []string{
			`{"files":{"a/b":"","a/b/x":"` + another + `"},"executable":["a/b/x"],"links":{"a/b/m":"x"},"sizes":[1]}`}, whole},
		"a directory in a later part": {top, []string{
			`{"files":{"a/b/x":"` + another + `"},"executable":["a/b/x"]}`, `{"files":{"a/b":""},"links":{"a/b/m":"x"}}`}, whole},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := writeParts(t, test.top, test.parts...)
			// A part that the manifest does not name is ignored.
			must(t, os.WriteFile(partFile(file, sum), []byte("old"), 0o644))
			if got, err := readAny(file); err != nil || !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %v, %v, want %v", got, err, test.want)
			}
		})
	}
}

func TestReadPartsRejects(t *testing.T) {
	const top = `"files":{"f":"` + sum + `"}`
	tests := map[string]struct {
		parts   []string
		problem string
		where   int // the index of the part that the message names, -1 for the top
	}{
		"file twice, top and part":   {[]string{`{"files":{"f":"` + sum + `"}}`}, `"f" is listed twice`, 0},
		"file twice, two parts":      {[]string{`{"files":{"x":"` + sum + `"}}`, `{"files":{"x":"` + another + `"}}`}, `"x" is listed twice`, 1},
		"directory twice":            {[]string{`{"files":{"d":""}}`, `{"files":{"d":""},"links":{}}`}, `"d" is listed twice`, 1},
		"file and link":              {[]string{`{"links":{"f":"x"}}`}, `"f" is listed twice`, 0},
		"no parent":                  {[]string{`{"files":{"d/x":"` + sum + `"}}`, `{"files":{"d/y":""}}`}, `"d/x" is listed but its directory is not`, 0},
		"a file as parent elsewhere": {[]string{`{"files":{}}`, `{"files":{"f/x":"` + sum + `"}}`}, `"f/x" is listed but its directory is not`, 1},
		"bad sum":                    {[]string{`{"files":{"x":"abc0"}}`}, `"x" has an invalid SHA-256: "abc0"`, 0},
		"path that leads outside":    {[]string{`{"files":{"../x":"` + sum + `"}}`}, `"../x" is not a clean relative path`, 0},
		"executable missing path":    {[]string{`{"executable":["x"]}`}, "it lists an executable that is not a file", 0},
		"not JSON":                   {[]string{`{}`, `{"files":`}, "expected '{' at byte 9", 1},
		"a list":                     {[]string{`[]`}, "expected '{' at byte 0", 0},
		"a space":                    {[]string{`{ }`}, "expected a string at byte 1", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := writeParts(t, top, test.parts...)
			where := file
			if test.where >= 0 {
				where = partFile(file, digest(canonical(test.parts[test.where])))
			}
			wantProblem(t, file, where, test.problem)
		})
	}
}

func TestDamagedParts(t *testing.T) {
	part := canonical(`{"files":{"x":"` + sum + `"}}`)
	tests := map[string]struct {
		damage  func(file string) error
		problem string
	}{
		"missing":        {os.Remove, "no such file or directory"},
		"empty":          {func(file string) error { return os.Truncate(file, 0) }, "the content does not match the SHA-256 in the file name"},
		"truncated":      {func(file string) error { return os.Truncate(file, 9) }, "the content does not match the SHA-256 in the file name"},
		"one more space": {func(file string) error { return os.WriteFile(file, []byte(part+" "), 0o644) }, "the content does not match the SHA-256 in the file name"},
		"a directory":    {func(file string) error { os.Remove(file); return os.Mkdir(file, 0o755) }, "not a regular file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := writeParts(t, `"files":{}`, `{"files":{"y":""}}`, part)
			damaged := partFile(file, digest(part))
			must(t, test.damage(damaged))
			wantProblem(t, file, damaged, test.problem)
		})
	}
}

// The names are checked before the first part is opened: that part is missing.
func TestInvalidPartNames(t *testing.T) {
	for _, name := range []string{"", "x", sum[1:], sum + "0", strings.ToUpper(sum), sum[:63] + "g", "../" + sum[3:], sum[:61] + "/..", sum[:63] + `\n`} {
		file := write(t, `{"parts":["`+sum+`","`+name+`"],"version":3}`)
		wantProblem(t, file, file, "expected a SHA-256")
	}
	for _, parts := range []string{`{}`, `"` + sum + `"`, `[1]`, `null`} {
		file := write(t, `{"parts":`+parts+`,"version":3}`)
		wantProblem(t, file, file, "not canonical JSON")
	}
	if _, err := readAny(write(t, `{"parts":[],"version":3}`)); err != nil {
		t.Errorf("no parts: %v", err)
	}
}

// The test takes 0.6 s and 50 MB, including the creation of the parts.
func TestManyParts(t *testing.T) {
	var parts []string
	for i := range 400 {
		files := map[string]string{fmt.Sprintf("d%d", i): ""}
		for j := range 250 {
			// The directory is in the next part.
			files[fmt.Sprintf("d%d/some longer file name %d", (i+1)%400, j)] = sum
		}
		parts = append(parts, string(must2(json.Marshal(map[string]any{"files": files}))))
	}
	got, err := readAny(writeParts(t, `"links":{"l":"d0"}`, parts...))
	must(t, err)
	count := 0
	for items := range maps.Values(got) {
		count += len(items)
	}
	if len(got) != 401 || count != 400*251+1 {
		t.Errorf("%d directories, %d items", len(got), count)
	}
}

// write writes a manifest and returns its path.
func write(t *testing.T, data string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.json")
	must(t, os.WriteFile(file, []byte(data), 0o644))
	return file
}

// writeParts writes a manifest of the given columns and its parts, and returns its path.
func writeParts(t *testing.T, top string, parts ...string) string {
	t.Helper()
	names := []string{}
	for _, part := range parts {
		names = append(names, digest(canonical(part)))
	}
	file := write(t, canonical(`{"version":3,"parts":`+string(must2(json.Marshal(names)))+`,`+top+`}`))
	must(t, os.Mkdir(filepath.Join(filepath.Dir(file), "parts"), 0o755))
	for _, part := range parts {
		must(t, os.WriteFile(partFile(file, digest(canonical(part))), []byte(canonical(part)), 0o644))
	}
	return file
}

// canonical returns a JSON object in canonical form. It adds sizes of one byte if there are none. It
// leaves what is not JSON, and an object that begins with a space.
func canonical(text string) string {
	var document map[string]any
	if strings.HasPrefix(text, "{ ") || json.Unmarshal([]byte(text), &document) != nil {
		return text
	}
	if document["sizes"] == nil {
		files, _ := document["files"].(map[string]any)
		sizes := []int{}
		for _, sum := range files {
			if sum != "" {
				sizes = append(sizes, 1)
			}
		}
		document["sizes"] = sizes
	}
	return string(must2(json.Marshal(document)))
}

func readAny(file string) (listing, error) { return readManifest(newPool(), file, "") }

func partFile(manifest, name string) string {
	return filepath.Join(filepath.Dir(manifest), "parts", name+".json")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func wantProblem(t *testing.T, manifest, where, problem string) {
	t.Helper()
	got, err := readAny(manifest)
	if prefix := fmt.Sprintf("read manifest %q: ", where); err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), problem) {
		t.Errorf("got %v, %v, want %s%s", got, err, prefix, problem)
	}
}
