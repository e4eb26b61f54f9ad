module adapter

go 1.19

require lockkeeper v0.0.0

replace lockkeeper => ../../../client/go
