module kontext/extractor

go 1.25
