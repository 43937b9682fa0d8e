#include <arpa/inet.h>
#include <netdb.h>
#include <stdbool.h>
#include <string.h>

#include "conf/address.h"
#include "conf/units.h"

static const char allowed[] =
  "HOST:PORT with a port from 1 to 65535, IPv6 as [::1]:9400";

void
address_free (struct address *a)
{
  if (a == NULL)
    return;
  g_free (a->host);
  g_free (a);
}

/* An IPv6 number, perhaps with a scope: fe80::1%eth0. */
static bool
is_ipv6 (const char *host)
{
  struct in6_addr addr;
  size_t len = strcspn (host, "%");
  g_autofree char *number = g_strndup (host, len);

  if (host[len] == '%' &&
      (host[len + 1] == '\0' || strpbrk (host + len + 1, "%[]/ \t") != NULL))
    return false;
  return inet_pton (AF_INET6, number, &addr) == 1;
}

/* A name, or a whole IPv4 number: not one of inet_aton's short forms. */
static bool
is_name_or_ipv4 (const char *host)
{
  static const char name_characters[] =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
  struct in_addr addr;
  size_t len = strlen (host);

  if (len == 0 || len > 253 || strspn (host, name_characters) != len ||
      host[0] == '-' || host[0] == '.')
    return false;
  if (strspn (host, "0123456789.") == len)
    return inet_pton (AF_INET, host, &addr) == 1;
  return true;
}

/* NULL, or what is wrong with it. */
static const char *
split (const char *text, char **host, uint64_t *port)
{
  const char *colon = strrchr (text, ':');
  bool bracket = text[0] == '[';
  size_t len;

  if (bracket && strchr (text, ']') == NULL)
    return "the closing bracket is missing";
  if (colon == NULL || (bracket && colon[-1] != ']'))
    return "there is no port";
  len = colon - text;
  if (!bracket && memchr (text, ':', len) != NULL)
    return "an IPv6 address needs brackets";
  *host = bracket ? g_strndup (text + 1, len - 2) : g_strndup (text, len);
  if (bracket ? !is_ipv6 (*host) : !is_name_or_ipv4 (*host))
    return bracket ? "no valid IPv6 address is in the brackets" :
      "no valid host name or address is before the port";
  if (units_parse_uint (colon + 1, port) != 0 ||
      *port == 0 || *port > UINT16_MAX)
    return "the port is not a number from 1 to 65535";
  return NULL;
}

struct address *
address_parse (const char *text, char **error)
{
  g_autofree char *host = NULL;
  g_autofree char *shown = NULL;
  struct address *a;
  const char *wrong;
  uint64_t port;

  wrong = split (text, &host, &port);
  if (wrong != NULL) {
    shown = g_strescape (text, NULL);
    *error = g_strdup_printf ("address \"%s\": %s (allowed: %s)",
                              shown, wrong, allowed);
    return NULL;
  }
  a = g_new (struct address, 1);
  a->host = g_steal_pointer (&host);
  a->port = port;
  return a;
}

char *
address_to_string (const struct address *a)
{
  return g_strdup_printf (strchr (a->host, ':') ? "[%s]:%u" : "%s:%u",
                          a->host, a->port);
}

char *
address_canonical (const struct address *a)
{
  char number[INET6_ADDRSTRLEN];
  struct in6_addr addr;
  g_autofree char *host = NULL;

  if (inet_pton (AF_INET6, a->host, &addr) == 1) {
    inet_ntop (AF_INET6, &addr, number, sizeof number);
    return g_strdup_printf ("[%s]:%u", number, a->port);
  }
  host = g_ascii_strdown (a->host, -1);
  return g_strdup_printf ("%s:%u", host, a->port);
}

const char address_listen_allowed[] =
  "ADDR:PORT with an address of this machine, as 10.0.0.2:9400 or "
  "[::1]:9400; port 0 takes a free one";

/* Port 0 is allowed here and nowhere else. */
bool
address_parse_listen (const char *text, struct sockaddr_storage *ret,
                      socklen_t *len)
{
  const bool any_port = g_str_has_suffix (text, ":0");
  g_autofree char *named = g_strdup (text);
  g_autofree char *error = NULL;
  const struct addrinfo hints = {
    .ai_flags = AI_PASSIVE | AI_NUMERICSERV,
    .ai_socktype = SOCK_STREAM,
  };
  struct addrinfo *found;
  struct address *address;
  char port[8];
  int r;

  if (any_port)
    named[strlen (named) - 1] = '1';
  address = address_parse (named, &error);
  if (address == NULL)
    return false;
  g_snprintf (port, sizeof port, "%u", any_port ? 0 : address->port);
  r = getaddrinfo (address->host, port, &hints, &found);
  address_free (address);
  if (r != 0)
    return false;
  memcpy (ret, found->ai_addr, found->ai_addrlen);
  *len = found->ai_addrlen;
  freeaddrinfo (found);
  return true;
}
