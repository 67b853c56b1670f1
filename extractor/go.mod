module github.com/kontext-dev/kontext/extractor

go 1.25
