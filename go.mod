module metacap

go 1.26
