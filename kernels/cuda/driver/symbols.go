package driver

// symbol is an entry point of the driver, an index into Driver.entry.
type symbol int

// Entry points, in the order of the table below.
const (
	symInit symbol = iota
	symDriverGetVersion
	symGetErrorName
	symGetErrorString
	symDeviceGetCount
	symDeviceGet
	symDeviceGetName
	symDeviceGetAttribute
	symPrimaryCtxRetain
	symPrimaryCtxRelease
	symCtxSetCurrent
	symCtxSynchronize
	symMemGetInfo
	symModuleLoadData
	symModuleUnload
	symModuleGetFunction
	symFuncSetAttribute
	symOccupancy
	symLaunchKernel
	symLaunchKernelEx
	symMemAlloc
	symMemFree
	symMemHostAlloc
	symMemFreeHost
	symMemHostGetDevicePointer
	symMemcpyHtoDAsync
	symMemcpyDtoHAsync
	symMemcpyDtoDAsync
	symMemsetD8Async
	symStreamCreateWithPriority
	symStreamDestroy
	symStreamSynchronize
	symStreamQuery
	symStreamWaitEvent
	symStreamBeginCapture
	symStreamEndCapture
	symEventCreate
	symEventDestroy
	symEventRecord
	symEventQuery
	symEventSynchronize
	symEventElapsedTime
	symGraphInstantiate
	symGraphLaunch
	symGraphDestroy
	symGraphExecDestroy
	symTensorMapEncodeTiled
	numSymbols
)

// symbolInfo names an entry point. A versioned symbol is asked for by its base
// name and version through cuGetProcAddress, else by its exported name.
type symbolInfo struct {
	name     string // base name, as in cuda.h
	exported string // name in the library; "" = name
	version  int    // CUDA version whose prototype is meant: 11020 = 11.2
	optional bool   // Open succeeds without it
}

// symbolTable gives each symbol the prototype version that this package calls.
// The versions are those in which the prototype appeared, so that a newer driver
// hands out the same one.
var symbolTable = [numSymbols]symbolInfo{
	symInit:                     {name: "cuInit", version: 2000},
	symDriverGetVersion:         {name: "cuDriverGetVersion", version: 2020},
	symGetErrorName:             {name: "cuGetErrorName", version: 6000},
	symGetErrorString:           {name: "cuGetErrorString", version: 6000},
	symDeviceGetCount:           {name: "cuDeviceGetCount", version: 2000},
	symDeviceGet:                {name: "cuDeviceGet", version: 2000},
	symDeviceGetName:            {name: "cuDeviceGetName", version: 2000},
	symDeviceGetAttribute:       {name: "cuDeviceGetAttribute", version: 2000},
	symPrimaryCtxRetain:         {name: "cuDevicePrimaryCtxRetain", version: 7000},
	symPrimaryCtxRelease:        {name: "cuDevicePrimaryCtxRelease", exported: "cuDevicePrimaryCtxRelease_v2", version: 11000},
	symCtxSetCurrent:            {name: "cuCtxSetCurrent", version: 4000},
	symCtxSynchronize:           {name: "cuCtxSynchronize", version: 2000},
	symMemGetInfo:               {name: "cuMemGetInfo", exported: "cuMemGetInfo_v2", version: 3020},
	symModuleLoadData:           {name: "cuModuleLoadData", version: 2000},
	symModuleUnload:             {name: "cuModuleUnload", version: 2000},
	symModuleGetFunction:        {name: "cuModuleGetFunction", version: 2000},
	symFuncSetAttribute:         {name: "cuFuncSetAttribute", version: 9000},
	symOccupancy:                {name: "cuOccupancyMaxActiveBlocksPerMultiprocessor", version: 6050},
	symLaunchKernel:             {name: "cuLaunchKernel", version: 4000},
	symLaunchKernelEx:           {name: "cuLaunchKernelEx", version: 11060, optional: true},
	symMemAlloc:                 {name: "cuMemAlloc", exported: "cuMemAlloc_v2", version: 3020},
	symMemFree:                  {name: "cuMemFree", exported: "cuMemFree_v2", version: 3020},
	symMemHostAlloc:             {name: "cuMemHostAlloc", version: 2020},
	symMemFreeHost:              {name: "cuMemFreeHost", version: 2000},
	symMemHostGetDevicePointer:  {name: "cuMemHostGetDevicePointer", exported: "cuMemHostGetDevicePointer_v2", version: 3020},
	symMemcpyHtoDAsync:          {name: "cuMemcpyHtoDAsync", exported: "cuMemcpyHtoDAsync_v2", version: 3020},
	symMemcpyDtoHAsync:          {name: "cuMemcpyDtoHAsync", exported: "cuMemcpyDtoHAsync_v2", version: 3020},
	symMemcpyDtoDAsync:          {name: "cuMemcpyDtoDAsync", exported: "cuMemcpyDtoDAsync_v2", version: 3020},
	symMemsetD8Async:            {name: "cuMemsetD8Async", version: 3020},
	symStreamCreateWithPriority: {name: "cuStreamCreateWithPriority", version: 5050},
	symStreamDestroy:            {name: "cuStreamDestroy", exported: "cuStreamDestroy_v2", version: 4000},
	symStreamSynchronize:        {name: "cuStreamSynchronize", version: 2000},
	symStreamQuery:              {name: "cuStreamQuery", version: 2000},
	symStreamWaitEvent:          {name: "cuStreamWaitEvent", version: 3020},
	symStreamBeginCapture:       {name: "cuStreamBeginCapture", exported: "cuStreamBeginCapture_v2", version: 10010},
	symStreamEndCapture:         {name: "cuStreamEndCapture", version: 10000},
	symEventCreate:              {name: "cuEventCreate", version: 2000},
	symEventDestroy:             {name: "cuEventDestroy", exported: "cuEventDestroy_v2", version: 4000},
	symEventRecord:              {name: "cuEventRecord", version: 2000},
	symEventQuery:               {name: "cuEventQuery", version: 2000},
	symEventSynchronize:         {name: "cuEventSynchronize", version: 2000},
	symEventElapsedTime:         {name: "cuEventElapsedTime", version: 2000},
	symGraphInstantiate:         {name: "cuGraphInstantiateWithFlags", version: 11040},
	symGraphLaunch:              {name: "cuGraphLaunch", version: 10000},
	symGraphDestroy:             {name: "cuGraphDestroy", version: 10000},
	symGraphExecDestroy:         {name: "cuGraphExecDestroy", version: 10000},
	symTensorMapEncodeTiled:     {name: "cuTensorMapEncodeTiled", version: 12000, optional: true},
}

// export is the name of the symbol in the library.
func (s symbolInfo) export() string {
	if s.exported != "" {
		return s.exported
	}
	return s.name
}
