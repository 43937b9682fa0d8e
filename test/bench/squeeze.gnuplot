# The samples of test/vm/donor-sampler, as the paper's figure 14: what a
# node's memory is used for while a program comes and goes.
#
#   gnuplot -e 'samples="samples.tsv"; plot_file="squeeze.svg"' squeeze.gnuplot

set terminal svg size 900,480 dynamic background rgb "white" font "sans,13"
set output plot_file
set datafile separator "\t"
set datafile columnheaders

set xlabel "Time (s)"
set ylabel "Memory (MiB)"
set xrange [0:*]
set autoscale xfixmax
set yrange [0:*]
set grid
set key outside top center horizontal reverse Left

# Of this moment; the donor's own figure is the average.
used(dummy) = column("total") - column("available") - column("held")

plot samples using (column("time") / 1000):(column("lent")) \
       with filledcurves y=0 fillcolor "#b0cde8" title "lent", \
     samples using (column("time") / 1000):(column("lent")) \
       with lines linewidth 2 linecolor "#2b6ca3" notitle, \
     samples using (column("time") / 1000):(used(0)) \
       with lines linewidth 2 linecolor "#c0392b" title "used by others", \
     samples using (column("time") / 1000):(column("used")) \
       with lines linewidth 1.5 dashtype 3 linecolor "#c0392b" \
       title "its average", \
     samples using (column("time") / 1000):(column("available")) \
       with lines linewidth 2 linecolor "#27864b" title "free", \
     samples using (column("time") / 1000):(column("headroom")) \
       with lines linewidth 1.5 dashtype 2 linecolor "#555555" \
       title "headroom"
