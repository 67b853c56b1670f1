package main

import (
	"io/fs"
	"reflect"
	"strings"
	"testing"
)

const (
	sum     = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
	another = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"
)

func TestParseManifest(t *testing.T) {
	got, err := parseManifest([]byte(`{
		"version": 2, "sizes": [1, 2], "base": {"any": "thing"},
		"files": {"a": "", "a/b": "` + sum + `", "é\n": "` + another + `"},
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

func TestParseManifestRefuses(t *testing.T) {
	files := func(files string) string { return `{"version":2,"files":{` + files + `}}` }
	tests := map[string]struct{ data, problem string }{
		"no JSON":               {`version 2`, "invalid character"},
		"nothing":               {``, "unexpected end"},
		"half of it":            {`{"version":2,"files":{`, "unexpected end"},
		"two":                   {`{"version":2}{"version":2}`, "after top-level value"},
		"a list":                {`[]`, "cannot unmarshal array"},
		"no version":            {`{"files":{}}`, "it is version 0, this extractor knows version 2"},
		"version 1":             {`{"version":1,"files":[]}`, "it is version 1, this extractor knows version 2"},
		"version 3":             {`{"version":3}`, "it is version 3, this extractor knows version 2"},
		"a version in words":    {`{"version":"2"}`, "cannot unmarshal string"},
		"files are a list":      {`{"version":2,"files":[]}`, "cannot unmarshal array"},
		"short sum":             {files(`"a":"abc0"`), `"a" has a bad SHA-256: "abc0"`},
		"upper-case sum":        {files(`"a":"` + strings.ToUpper(sum) + `"`), `"a" has a bad SHA-256`},
		"sum that is no hex":    {files(`"a":"` + strings.Repeat("x", 64) + `"`), `"a" has a bad SHA-256`},
		"empty path":            {files(`"":""`), `"" is no clean relative path`},
		"the top":               {files(`".":""`), `"." is no clean relative path`},
		"absolute path":         {files(`"/a":"` + sum + `"`), `"/a" is no clean relative path`},
		"path that leads out":   {files(`"../a":"` + sum + `"`), `"../a" is no clean relative path`},
		"path with a step up":   {files(`"a":"","a/../b":"` + sum + `"`), `"a/../b" is no clean relative path`},
		"path with two slashes": {files(`"a":"","a//b":"` + sum + `"`), `"a//b" is no clean relative path`},
		"path with a NUL":       {files(`"a\u0000":""`), `"a\x00" is no clean relative path`},
		"path to clean":         {files(`"a":"","a/":""`), `"a/" is no clean relative path`},
		"no parent":             {files(`"a/b":"` + sum + `"`), `"a/b" is listed and its directory is not`},
		"a file as parent":      {files(`"a":"` + sum + `","a/b":"` + sum + `"`), `"a/b" is listed and its directory is not`},
		"a link as parent":      {`{"version":2,"links":{"a":"b","a/b":"c"}}`, `"a/b" is listed and its directory is not`},
		"file and link":         {`{"version":2,"files":{"a":""},"links":{"a":"b"}}`, `"a" is listed twice`},
		"executable nothing":    {`{"version":2,"executable":["a"]}`, `"a" is executable and no file`},
		"executable directory":  {`{"version":2,"files":{"a":""},"executable":["a"]}`, `"a" is executable and no file`},
		"executable link":       {`{"version":2,"links":{"a":"b"},"executable":["a"]}`, `"a" is executable and no file`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseManifest([]byte(test.data))
			if err == nil || !strings.Contains(err.Error(), test.problem) {
				t.Errorf("got %v, %v, want %q", got, err, test.problem)
			}
		})
	}
}
