package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const (
	sum     = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	another = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
)

func TestReadManifest(t *testing.T) {
	got, err := readManifest(write(t, `{
		"version": 2, "sizes": [1, 2], "base": {"any": "thing"},
		"files": {"a": "", "a/b": "`+sum+`", "é\n": "`+another+`"},
		"executable": ["a/b"],
		"links": {"a/l": "../../x"}
	}`))
	want := listing{
		".": {"a": {kind: fs.ModeDir}, "é\n": {sha256: another}},
		"a": {"b": {sha256: sum, executable: true}, "l": {kind: fs.ModeSymlink, to: "../../x"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func TestReadManifestRejects(t *testing.T) {
	files := func(files string) string { return `{"version":2,"files":{` + files + `}}` }
	tests := map[string]struct{ data, problem string }{
		"not JSON":                     {`version 2`, "invalid character"},
		"empty file":                   {``, "unexpected end"},
		"truncated":                    {`{"version":2,"files":{`, "unexpected end"},
		"two documents":                {`{"version":2}{"version":2}`, "after top-level value"},
		"a list":                       {`[]`, "cannot unmarshal array"},
		"no version":                   {`{"files":{}}`, "unsupported version 0: this extractor reads version 2"},
		"version 1":                    {`{"version":1,"files":[]}`, "unsupported version 1: this extractor reads version 2"},
		"version 3":                    {`{"version":3}`, "unsupported version 3: this extractor reads version 2"},
		"a version as text":            {`{"version":"2"}`, "cannot unmarshal string"},
		"files are a list":             {`{"version":2,"files":[]}`, "cannot unmarshal array"},
		"short sum":                    {files(`"a":"abc0"`), `"a" has an invalid SHA-256: "abc0"`},
		"upper-case sum":               {files(`"a":"` + strings.ToUpper(sum) + `"`), `"a" has an invalid SHA-256`},
		"sum not in hex":               {files(`"a":"` + strings.Repeat("x", 64) + `"`), `"a" has an invalid SHA-256`},
		"empty path":                   {files(`"":""`), `"" is not a clean relative path`},
		"the top":                      {files(`".":""`), `"." is not a clean relative path`},
		"absolute path":                {files(`"/a":"` + sum + `"`), `"/a" is not a clean relative path`},
		"path that leads outside":      {files(`"../a":"` + sum + `"`), `"../a" is not a clean relative path`},
		"path with ..":                 {files(`"a":"","a/../b":"` + sum + `"`), `"a/../b" is not a clean relative path`},
		"path with two slashes":        {files(`"a":"","a//b":"` + sum + `"`), `"a//b" is not a clean relative path`},
		"path with a NUL":              {files(`"a\u0000":""`), `"a\x00" is not a clean relative path`},
		"path with a slash at the end": {files(`"a":"","a/":""`), `"a/" is not a clean relative path`},
		"no parent":                    {files(`"a/b":"` + sum + `"`), `"a/b" is listed but its directory is not`},
		"a file as parent":             {files(`"a":"` + sum + `","a/b":"` + sum + `"`), `"a/b" is listed but its directory is not`},
		"a link as parent":             {`{"version":2,"links":{"a":"b","a/b":"c"}}`, `"a/b" is listed but its directory is not`},
		"file and link":                {`{"version":2,"files":{"a":""},"links":{"a":"b"}}`, `"a" is listed twice`},
		"executable missing path":      {`{"version":2,"executable":["a"]}`, `"a" is executable but not a file`},
		"executable directory":         {`{"version":2,"files":{"a":""},"executable":["a"]}`, `"a" is executable but not a file`},
		"executable link":              {`{"version":2,"links":{"a":"b"},"executable":["a"]}`, `"a" is executable but not a file`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := readManifest(write(t, test.data))
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %v, %v, want %q", got, err, test.problem)
			}
		})
	}
}

func TestReadParts(t *testing.T) {
	const top = `"files":{"a":"","f":"` + sum + `"},"links":{"l":"a"}`
	whole := listing{
		".":   {"a": {kind: fs.ModeDir}, "f": {sha256: sum}, "l": {kind: fs.ModeSymlink, to: "a"}},
		"a":   {"b": {kind: fs.ModeDir}},
		"a/b": {"x": {sha256: another, executable: true}, "m": {kind: fs.ModeSymlink, to: "x"}},
	}
	tests := map[string]struct {
		top   string
		parts []string
		want  listing
	}{
		"no parts":   {top, nil, listing{".": whole["."], "a": {}}},
		"empty part": {top, []string{`{"files":{},"sizes":[],"executable":[],"links":{}}`}, listing{".": whole["."], "a": {}}},
		"nothing in the top": {`"files":{}`, []string{
			`{"files":{"a":"","f":"` + sum + `"},"links":{"l":"a"},"sizes":[3],"executable":[]}`}, listing{".": whole["."], "a": {}}},
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
			if got, err := readManifest(file); err != nil || !reflect.DeepEqual(got, test.want) {
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
		"executable missing path":    {[]string{`{"executable":["x"]}`}, `"x" is executable but not a file`, 0},
		"not JSON":                   {[]string{`{}`, `{"files":`}, "unexpected end", 1},
		"a list":                     {[]string{`[]`}, "cannot unmarshal array", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			file := writeParts(t, top, test.parts...)
			where := file
			if test.where >= 0 {
				where = partFile(file, digest(test.parts[test.where]))
			}
			wantProblem(t, file, where, test.problem)
		})
	}
}

func TestDamagedParts(t *testing.T) {
	part := `{"files":{"x":"` + sum + `"}}`
	tests := map[string]struct {
		damage  func(file string) error
		problem string
	}{
		"missing":        {os.Remove, "no such file or directory"},
		"empty":          {func(file string) error { return os.Truncate(file, 0) }, "the content does not match the SHA-256 in the file name"},
		"truncated":      {func(file string) error { return os.Truncate(file, 9) }, "the content does not match the SHA-256 in the file name"},
		"one more space": {func(file string) error { return os.WriteFile(file, []byte(part+" "), 0o644) }, "the content does not match the SHA-256 in the file name"},
		"a directory":    {func(file string) error { os.Remove(file); return os.Mkdir(file, 0o755) }, "is a directory"},
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
		file := write(t, `{"version":2,"parts":["`+sum+`","`+name+`"]}`)
		wantProblem(t, file, file, "expected a SHA-256")
	}
	for _, parts := range []string{`{}`, `"` + sum + `"`, `[1]`} {
		file := write(t, `{"version":2,"parts":`+parts+`}`)
		wantProblem(t, file, file, "cannot unmarshal")
	}
	for _, parts := range []string{`[]`, `null`} {
		if _, err := readManifest(write(t, `{"version":2,"parts":`+parts+`}`)); err != nil {
			t.Errorf("parts %s: %v", parts, err)
		}
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
	got, err := readManifest(writeParts(t, `"links":{"l":"d0"}`, parts...))
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
		names = append(names, digest(part))
	}
	file := write(t, `{"version":2,"parts":`+string(must2(json.Marshal(names)))+`,`+top+`}`)
	must(t, os.Mkdir(filepath.Join(filepath.Dir(file), "parts"), 0o755))
	for _, part := range parts {
		must(t, os.WriteFile(partFile(file, digest(part)), []byte(part), 0o644))
	}
	return file
}

func partFile(manifest, name string) string {
	return filepath.Join(filepath.Dir(manifest), "parts", name+".json")
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func wantProblem(t *testing.T, manifest, where, problem string) {
	t.Helper()
	got, err := readManifest(manifest)
	if prefix := fmt.Sprintf("read manifest %q: ", where); err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), problem) {
		t.Errorf("got %v, %v, want %s%s", got, err, prefix, problem)
	}
}
