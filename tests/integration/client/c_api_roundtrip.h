#ifndef VARVE_TESTS_INTEGRATION_CLIENT_C_API_ROUNDTRIP_H_
#define VARVE_TESTS_INTEGRATION_CLIENT_C_API_ROUNDTRIP_H_

#ifdef __cplusplus
extern "C" {
#endif

/* Null when every call did what client/varve.h says, else what did not. lanes "": inline. */
const char* RunCApi(const char* address, const char* lanes);

#ifdef __cplusplus
}
#endif

#endif
