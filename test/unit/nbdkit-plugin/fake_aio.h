/* The functions of libaio, done by threads with pwritev, for the whole
 * test: so that what makes pwritev fail, slow or wait does so to writes
 * in flight together.
 */

#ifndef TEST_FAKE_AIO_H
#define TEST_FAKE_AIO_H

enum fake_aio { FAKE_AIO_THREADS, FAKE_AIO_REAL, FAKE_AIO_REFUSED };

/* From the next io_setup on: by threads, as at first; the real ones; or
 * io_setup fails.
 */
void fake_aio_be (enum fake_aio what);

#endif /* TEST_FAKE_AIO_H */
