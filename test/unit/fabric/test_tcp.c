#include "test/unit/fabric/conformance.h"

int
main (void)
{
  return conformance_run (conformance_suite (&fabric_tcp, "127.0.0.1"));
}
