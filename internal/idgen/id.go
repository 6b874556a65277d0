// Package idgen makes and reads ids: int64 numbers that sort by time.
//
// An id is, in decimal, YY DDD SSSSS HH BBBB III: year since 2000, day of the
// year (from 001) and second of the day (UTC), then the shard, the block's
// sequence modulo 10,000 and the record's index in the block. A record of the
// journal always has the same id, whoever derives it and however often.
// Derived ids are unique as long as a shard appends fewer than 10,000 blocks
// in a second.
//
// A Minter makes ids for what is in no journal. A node's number stands in them
// in place of the shard, a sequence in place of block and index. Nothing tells
// the two kinds apart: keep them in different columns.
//
// As text an id is AO DDD YY SSSSS - HH BBBB III without the blanks, such as
// AO3272652345-000042017 for the number 2632752345000042017.
//
// The package reads no clock.
package idgen

import (
	"fmt"
	"time"
)

// ID is an id as a number. Zero is no id, nor is any number of another form.
type ID int64

// What the places of an id hold, from the lowest.
const (
	indexes = 1_000
	blocks  = 10_000
	shards  = 100
	seconds = 100_000
	days    = 1_000

	perSecond = indexes * blocks // ids of one shard or node in one second
	secondsAt = perSecond * shards
	daysAt    = secondsAt * seconds
	yearsAt   = daysAt * days
)

// The years that ids can tell. The largest int64, 9223372036854775807, lies in
// day 233 of 2092, so 2091 is the last whole year: 9136586399999999999 ends it.
const (
	firstYear = 2000
	lastYear  = 2091

	epoch      = 946_684_800 // 2000 begins, Unix seconds
	daySeconds = 24 * 60 * 60
	leapDays   = (lastYear-firstYear)/4 + 1 // 2000, 2004, … 2088
	lifetime   = ((lastYear-firstYear+1)*365 + leapDays) * daySeconds
)

// Derive returns the id of the record at index in block seq of a shard's
// journal, which was stored at the time given. The shard is from 0 to 99, the
// index from 0 to 999, the time from 2000 to 2091.
func Derive(stored time.Time, shard int, seq uint64, index int) (ID, error) {
	second, err := secondOf("stored", stored)
	if err != nil {
		return 0, err
	}
	if shard < 0 || shard >= shards {
		return 0, fmt.Errorf("shard: want 0 to %d, found %d", shards-1, shard)
	}
	if index < 0 || index >= indexes {
		return 0, fmt.Errorf("index: want 0 to %d, found %d", indexes-1, index)
	}
	return compose(second, shard, int64(seq%blocks)*indexes+int64(index)), nil
}

// secondOf returns the seconds from the epoch to t, from 0 to lifetime-1. The
// error names t as name says.
func secondOf(name string, t time.Time) (int64, error) {
	second := t.Unix() - epoch
	if second < 0 || second >= lifetime {
		return 0, fmt.Errorf("%s: want a time from %d to %d, found %s",
			name, firstYear, lastYear, t.UTC().Format(time.RFC3339))
	}
	return second, nil
}

// compose makes the id of a second since the epoch, a shard or node, and the
// place within both, from 0 to perSecond-1.
func compose(second int64, shard int, place int64) ID {
	day, second := second/daySeconds, second%daySeconds
	// Four years are 1,461 days and the first is the leap year: of the years
	// that divide by 100 only 2000 is in range, which has its leap day.
	year, day := day/1461*4, day%1461
	if day >= 366 {
		year, day = year+1+(day-366)/365, (day-366)%365
	}
	return ID(year*yearsAt + (day+1)*daysAt + second*secondsAt + int64(shard)*perSecond + place)
}

// Time returns the second in which the record was stored or the id minted, in
// UTC.
func (id ID) Time() time.Time {
	year, day, second := id.moment()
	return time.Unix(epoch+(year*365+(year+3)/4+day-1)*daySeconds+second, 0).UTC()
}

// Shard returns the shard, or the node that minted the id, from 0 to 99.
func (id ID) Shard() int { return int(id / perSecond % shards) }

// moment returns the year since 2000, the day of the year and the second of
// the day.
func (id ID) moment() (year, day, second int64) {
	return int64(id / yearsAt), int64(id / daysAt % days), int64(id / secondsAt % seconds)
}
